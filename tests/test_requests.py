"""Known fields are those of Azure's specs and of the ``openai`` package, and every text of a request can be filtered."""

import importlib
import inspect
import json
from typing import Any, Literal, Required, get_args, get_origin, get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from pydantic import ValidationError

from sluicegate import ChatRequest, CompletionRequest, EmbeddingRequest, requests
from sluicegate.api.body import parse
from sluicegate.requests import Part

FROM_THE_SDK = {
    ChatRequest: chat_params.CompletionCreateParamsStreaming,
    CompletionRequest: completion_create_params.CompletionCreateParamsStreaming,
    EmbeddingRequest: embedding_create_params.EmbeddingCreateParams,
    requests.SystemMessage: "chat_completion_system_message_param.ChatCompletionSystemMessageParam",
    requests.DeveloperMessage: "chat_completion_developer_message_param.ChatCompletionDeveloperMessageParam",
    requests.UserMessage: "chat_completion_user_message_param.ChatCompletionUserMessageParam",
    requests.AssistantMessage: "chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam",
    requests.AudioReference: "chat_completion_assistant_message_param.Audio",
    requests.FunctionCall: "chat_completion_assistant_message_param.FunctionCall",
    requests.ToolMessage: "chat_completion_tool_message_param.ChatCompletionToolMessageParam",
    requests.FunctionMessage: "chat_completion_function_message_param.ChatCompletionFunctionMessageParam",
    requests.TextPart: "chat_completion_content_part_text_param.ChatCompletionContentPartTextParam",
    requests.CacheBreakpoint: "chat_completion_content_part_text_param.PromptCacheBreakpoint",
    requests.RefusalPart: "chat_completion_content_part_refusal_param.ChatCompletionContentPartRefusalParam",
    requests.ImagePart: "chat_completion_content_part_image_param.ChatCompletionContentPartImageParam",
    requests.ImageUrl: "chat_completion_content_part_image_param.ImageURL",
    requests.AudioPart: "chat_completion_content_part_input_audio_param.ChatCompletionContentPartInputAudioParam",
    requests.InputAudio: "chat_completion_content_part_input_audio_param.InputAudio",
    requests.FilePart: "chat_completion_content_part_param.File",
    requests.FileReference: "chat_completion_content_part_param.FileFile",
    requests.FunctionToolCall: (
        "chat_completion_message_function_tool_call_param.ChatCompletionMessageFunctionToolCallParam"
    ),
    requests.CustomToolCall: "chat_completion_message_custom_tool_call_param.ChatCompletionMessageCustomToolCallParam",
    requests.CustomCall: "chat_completion_message_custom_tool_call_param.Custom",
    requests.FunctionTool: "chat_completion_function_tool_param.ChatCompletionFunctionToolParam",
    requests.CustomTool: "chat_completion_custom_tool_param.ChatCompletionCustomToolParam",
    requests.NamedTool: "chat_completion_named_tool_choice_param.ChatCompletionNamedToolChoiceParam",
    requests.NamedFunction: "chat_completion_named_tool_choice_param.Function",
    requests.NamedCustomTool: "chat_completion_named_tool_choice_custom_param.ChatCompletionNamedToolChoiceCustomParam",
    requests.AllowedToolsChoice: "chat_completion_allowed_tool_choice_param.ChatCompletionAllowedToolChoiceParam",
    requests.AllowedTools: "chat_completion_allowed_tools_param.ChatCompletionAllowedToolsParam",
    requests.Prediction: "chat_completion_prediction_content_param.ChatCompletionPredictionContentParam",
    requests.StreamOptions: "chat_completion_stream_options_param.ChatCompletionStreamOptionsParam",
    requests.Function: "shared_params.function_definition.FunctionDefinition",
    requests.TextFormat: "shared_params.response_format_text.ResponseFormatText",
    requests.JsonObjectFormat: "shared_params.response_format_json_object.ResponseFormatJSONObject",
    requests.JsonSchemaFormat: "shared_params.response_format_json_schema.ResponseFormatJSONSchema",
    requests.JsonSchema: "shared_params.response_format_json_schema.JSONSchema",
}
"""Our class -> the SDK's; a text is a path below ``openai.types`` or ``openai.types.chat``."""

BEYOND_THE_SDK = {
    ChatRequest: {
        "data_sources": "Azure's on-your-data",
        "user_security_context": "Azure's attribution of abuse",
    },
    EmbeddingRequest: {"input_type": "in Azure's dated specs"},
}
"""Fields that we know and the SDK does not, with the reason."""

OUR_OWN = {
    requests.UserSecurityContext: {"application_name", "end_user_id", "end_user_tenant_id", "source_ip"},
}
"""Classes without a counterpart in the SDK, with the properties of Azure's specs."""

IN_AZURES_SPECS = {
    ChatRequest: """
        audio data_sources frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
        messages metadata modalities model n parallel_tool_calls prediction presence_penalty reasoning_effort
        response_format seed stop store stream stream_options temperature tool_choice tools top_logprobs top_p user
        user_security_context
    """,
    CompletionRequest: """
        best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty prompt seed stop stream
        stream_options suffix temperature top_p user
    """,
    EmbeddingRequest: "dimensions encoding_format input input_type model user",
}
"""The union of the properties in v1 GA, 2025-03-01-preview and 2024-10-21."""

BEYOND_AZURES_SPECS = {
    ChatRequest: """
        moderation prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier verbosity
        web_search_options
    """,
    CompletionRequest: "model",
    EmbeddingRequest: "",
}
"""What newer versions of the SDK send and Azure's specs do not have; ``model`` because the SDK always sends it."""


OPTIONAL: dict[type[Part], set[str]] = {
    ChatRequest: {"model", "stream"},
    CompletionRequest: {"model", "stream"},
    EmbeddingRequest: {"model"},
}
"""What the SDK requires and we do not: the path may name the deployment; ``stream`` is how the SDK tells its overloads apart."""


def sdk_type(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    module, _, attribute = name.rpartition(".")
    package = "openai.types" if module.startswith("shared_params") else "openai.types.chat"
    return getattr(importlib.import_module(f"{package}.{module}"), attribute)


def field_names(kind: type[Part]) -> set[str]:
    return {field.alias or name for name, field in kind.model_fields.items()}


def literals(annotation: Any) -> set[str]:
    if get_origin(annotation) is Literal:
        return {value for value in get_args(annotation) if isinstance(value, str)}
    return set().union(*(literals(inner) for inner in get_args(annotation) if not isinstance(inner, list)))


PAIRS = [pytest.param(ours, sdk_type(theirs), id=ours.__name__) for ours, theirs in FROM_THE_SDK.items()]
PARTS = [
    kind for _, kind in inspect.getmembers(requests, inspect.isclass) if issubclass(kind, Part) and kind.model_fields
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_fields_are_those_of_the_sdk(ours, theirs):
    expected = set(get_type_hints(theirs)) | set(BEYOND_THE_SDK.get(ours, {}))

    assert field_names(ours) == expected


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_keywords_are_those_of_the_sdk(ours, theirs):
    hints = get_type_hints(theirs)
    keywords = {field.alias or name: literals(field.annotation) for name, field in ours.model_fields.items()}
    compared = keywords.keys() & hints.keys() - {"model"}

    assert {name: keywords[name] for name in compared} == {name: literals(hints[name]) for name in compared}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_required_fields_are_those_of_the_sdk(ours, theirs):
    required = {field.alias or name for name, field in ours.model_fields.items() if field.is_required()}
    hints = get_type_hints(theirs, include_extras=True)

    assert required == {name for name, hint in hints.items() if get_origin(hint) is Required} - OPTIONAL.get(
        ours, set()
    )


@pytest.mark.parametrize("kind", IN_AZURES_SPECS)
def test_fields_are_those_of_azures_specs(kind):
    expected = {*IN_AZURES_SPECS[kind].split(), *BEYOND_AZURES_SPECS[kind].split()}

    assert field_names(kind) == expected


def test_every_class_is_compared():
    bases = {requests.Request, requests.GenerationRequest}

    assert set(PARTS) == {*FROM_THE_SDK, *OUR_OWN, *bases}


@pytest.mark.parametrize(("kind", "names"), OUR_OWN.items())
def test_azures_own_objects_have_the_fields_of_the_specs(kind, names):
    assert field_names(kind) == names


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": [5] * 100}),
        (ChatRequest, {"messages": [{"role": "user", "content": [5] * 100}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [5] * 100}]}),
        (ChatRequest, {"messages": [], "tools": [5] * 100, "functions": [5] * 100, "stop": [5] * 100}),
        (ChatRequest, {"messages": [], "modalities": [5] * 100, "data_sources": [5] * 100}),
        (CompletionRequest, {"prompt": [-1] * 100}),
        (EmbeddingRequest, {"input": [[-1]] * 100}),
    ],
)
def test_one_bad_element_of_a_list_is_enough(kind, fields):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(json.dumps(fields))

    assert caught.value.error_count() < 10


# --- texts -----------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "messages": [
        {"role": "system", "content": "system text", "name": "system name"},
        {"role": "developer", "content": [{"type": "text", "text": "part one, "}, {"type": "text", "text": "part two"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "user text"},
                {"type": "image_url", "image_url": {"url": "https://image", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"filename": "file name", "file_data": "file data", "file_id": "file-1"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "refused before"}],
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "call name", "arguments": "call arguments"}},
                {"id": "2", "type": "custom", "custom": {"name": "custom name", "input": "custom input"}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "tool result"},
        {"role": "tool", "tool_call_id": "2", "content": "custom result"},
        {"role": "function", "name": "function name", "content": "function result"},
    ],
    "tools": [
        {"type": "function", "function": {
            "name": "tool_name", "description": "tool description",
            "parameters": {"type": "object", "properties": {"key in schema": {"enum": ["value in schema"]}}},
        }},
        {"type": "custom", "custom": {"name": "custom_tool", "description": "custom description"}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "tool_name"}},
    "functions": [{"name": "older_function", "description": "older description"}],
    "function_call": {"name": "older_function"},
    "response_format": {"type": "json_schema", "json_schema": {
        "name": "format_name", "description": "format description", "schema": {"title": "schema title"},
    }},
    "prediction": {"type": "content", "content": "predicted text"},
    "stop": ["stop here"],
    "user": "user id",
    "reasoning_effort": "low",
}  # fmt: skip


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps(fields).encode())


def texts(request: requests.Request) -> set[str]:
    return {text.value for text in request.texts()}


def test_every_text_of_a_chat_is_visible():
    assert texts(chat(**EVERYTHING)) == {
        "system text", "system name", "part one, part two", "user text", "https://image", "file name", "file data",
        "refused before", "call name", "call arguments", "custom name", "custom input", "tool result", "custom result",
        "function name", "function result", "tool_name", "tool description", "type", "object", "properties",
        "key in schema", "enum", "value in schema", "name", "custom_tool", "description", "custom description",
        "older_function", "older description", "format_name", "format description", "title", "schema title",
        "predicted text", "stop here",
    }  # fmt: skip


def test_every_text_of_a_completion_or_an_embedding_is_visible():
    completion = parse(CompletionRequest, b'{"prompt": ["one", "two"], "suffix": "end", "stop": "now"}')
    embedding = parse(EmbeddingRequest, b'{"input": ["one", "two"], "input_type": "query", "encoding_format": "float"}')

    assert texts(completion) == {"one", "two", "end", "now"}
    assert texts(embedding) == {"one", "two"}


def test_every_text_can_be_changed():
    changed = chat(**EVERYTHING).map_text(str.upper)

    assert texts(changed) == {text.upper() for text in texts(chat(**EVERYTHING))}
    assert changed.messages[0].role == "system"
    assert changed.messages[2].content[1].image_url.detail == "low"
    assert changed.tool_choice.function.name == "TOOL_NAME"
    assert changed.user == "user id"


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_keyword_is_no_text(choice):
    tools = [{"type": "function", "function": {"name": "f"}}]
    messages = [{"role": "user", "content": "hi"}]
    request = chat(messages=messages, tools=tools, tool_choice=choice, functions=[{"name": "g"}], function_call="auto")

    changed = request.map_text(str.upper)

    assert choice not in texts(request)
    assert "auto" not in texts(request)
    assert (changed.tool_choice, changed.function_call) == (choice, "auto")


@pytest.mark.parametrize("kind", PARTS)
def test_every_field_of_keywords_is_marked_as_such(kind):
    with_literals = {name for name, field in kind.model_fields.items() if literals(field.annotation)}

    assert with_literals <= kind.opaque | kind.keywords


def test_texts_say_where_they_are():
    where = {text.value: (text.role, text.where) for text in chat(**EVERYTHING).texts()}

    assert where["user text"] == ("user", "messages[2].content[0].text")
    assert where["part one, part two"] == ("developer", "messages[1].content")
    assert where["tool description"] == ("tool", "tools[0].function.description")
    assert where["schema title"] == ("other", "response_format.json_schema.schema.title")


def test_changed_text_keeps_verdicts_and_what_was_left_out():
    request = chat(messages=[{"role": "user", "content": "hi"}]).annotate({"hate": {"filtered": False}})

    changed = request.map_text(str.upper)

    assert changed.prompt_filter_results == {0: {"hate": {"filtered": False}}}
    assert changed.body() == {"messages": [{"role": "user", "content": "HI"}]}


IMAGE = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}


def part(text):
    return {"type": "text", "text": text}


def test_a_text_cut_by_content_part_borders_is_read_as_one():
    request = chat(messages=[{"role": "user", "content": [part("Night"), part("jar"), IMAGE, part("flies")]}])

    assert [(text.value, text.where) for text in request.texts() if text.role == "user"][:1] == [
        ("Nightjar", "messages[0].content[0]")
    ]
    assert "flies" in texts(request)


def test_a_text_cut_by_content_part_borders_is_changed_as_one():
    request = chat(messages=[{"role": "user", "content": [part("a Night"), part("jar b"), IMAGE, part("c")]}])

    changed = request.map_text(lambda text: text.replace("Nightjar", "[bird]"))

    assert changed.body()["messages"][0]["content"] == [part("a [bird] b"), IMAGE, part("c")]


def test_content_parts_stay_as_they_are_where_their_borders_do_not_matter():
    request = chat(messages=[{"role": "user", "content": [part("one "), part("two")]}])

    changed = request.map_text(str.upper)

    assert changed.body()["messages"][0]["content"] == [part("ONE "), part("TWO")]

"""Fails wherever it is told to, with an exception that quotes what it was given."""

from sluicegate import hookimpl


@hookimpl
async def authenticate(headers):
    _fail_if_told("authenticate", headers.get("x-rehearsal", ""))


@hookimpl
async def pre_filter(request):
    for text in request.texts():
        _fail_if_told("pre_filter", text.value)
    return request


@hookimpl
async def post_filter(chunks):
    async for chunk in chunks:
        _fail_if_told("post_filter", chunk.text)
        yield chunk


def _fail_if_told(hook, text):
    if f"fail in {hook}" in text:
        raise ValueError(f"cannot cope with {text!r}")

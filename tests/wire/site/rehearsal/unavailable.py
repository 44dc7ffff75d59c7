"""A filter that is unavailable for text that says "be unavailable"."""

from sluicegate import FilterUnavailable, hookimpl
from sluicegate.vetting import vet


@hookimpl
async def pre_filter(request):
    for text in request.texts():
        await _read(text.value)
    return request


@hookimpl
async def post_filter(chunks, request, policy):
    async with vet(chunks, _read, request, policy) as vetted:
        async for chunk in vetted:
            yield chunk


async def _read(text):
    if "be unavailable" in text:
        raise FilterUnavailable("The filter is away.", retry_after_s=7)
    return {}

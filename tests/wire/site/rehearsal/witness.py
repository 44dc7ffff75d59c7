"""Keeps nothing, but tells the test of every exchange, once the plugins before it have kept it.

It says ``kept OUTCOME ID``, and ``kept OUTCOME of NAME`` for each name in the request's messages; and of the timer ``purged``,
and by the minute ``purged at YYYY-MM-DD HH:MM``. What is called ``stubborn`` it purges when it is asked again.
"""

import logging
import os

from rehearsal.cues import tell
from sluicegate import Expired, OfRecord, Purged, hookimpl

refused = set()
"""Records it did not purge when it was first asked to."""


@hookimpl
async def startup():
    # By now the host has set the levels that it wants.
    for name in os.environ.get("REHEARSAL_LOUD", "").split():
        logging.getLogger(name).setLevel(logging.INFO)


@hookimpl
async def retain(exchange):
    texts = list(exchange.request.texts())
    for text in texts:
        if "fail in retain" in text.value:
            raise ValueError(f"cannot cope with {text.value!r}")
    tell(f"kept {exchange.outcome} {exchange.id}")
    for text in texts:
        if text.where.endswith(".name"):
            tell(f"kept {exchange.outcome} of {text.value}")


@hookimpl
async def purge(scope):
    tell("purged")
    if isinstance(scope, OfRecord) and "stubborn" in scope.id and scope.id not in refused:
        refused.add(scope.id)
        raise ValueError("not yet")
    if isinstance(scope, Expired):
        tell(f"purged at {scope.now:%Y-%m-%d %H:%M}")
    return Purged()

"""Running one inbound stream's handler so that nothing it does can reach anything else."""

from __future__ import annotations

import logging

import trio

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.errors import Closed, MoshgridError, StreamReset
from moshgrid.p2p.network import Stream, StreamHandler

__all__ = ["serve_stream"]

_log = logging.getLogger("moshgrid.p2p")

_CLOSING_SECONDS = 5.0


async def serve_stream(handler: StreamHandler, stream: Stream, complaints: Complaints) -> None:
    """Runs ``handler`` and closes the stream after it, or resets it when the handler failed.

    A peer that vanished is no event, nor is this one's end; one that broke a protocol's rules is one
    line; anything else is a bug and logged with its traceback. Every one of them ends here, and of many
    that are alike ``complaints`` lets few through.
    """
    try:
        await handler(stream)
    except* Exception as errors:  # the root of this stream's task: a bug in it is not the node's end
        _report(stream, errors, complaints)
    else:
        with trio.move_on_after(_CLOSING_SECONDS):
            await stream.close()
    finally:
        # After a close this does nothing; after a failure or a cancellation it frees the stream.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
            await stream.reset()


def _report(stream: Stream, errors: ExceptionGroup[Exception], complaints: Complaints) -> None:
    leaves, now = list(_leaves(errors)), trio.current_time()
    kind, first = (stream.protocol, type(leaves[0])), leaves[0]
    if all(isinstance(leaf, (StreamReset, Closed)) for leaf in leaves):
        _log.debug("%s: %s is gone: %s", stream.protocol, stream.peer, first)
    elif all(isinstance(leaf, MoshgridError) for leaf in leaves):
        text = "%s: the stream of %s was reset: %s"
        complaints.say(logging.WARNING, kind, now, text, stream.protocol, stream.peer, first)
    else:
        text = "%s: serving %s failed"
        complaints.say(logging.ERROR, kind, now, text, stream.protocol, stream.peer, error=errors)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]

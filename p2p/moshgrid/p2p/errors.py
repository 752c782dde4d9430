"""The exception tree: what a caller must not ignore, and whose fault it was.

Expected outcomes (a group that did not form, a member that left) are values, never exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AccessDenied",
    "Closed",
    "ConfigurationError",
    "LocalProtocolError",
    "MoshgridError",
    "RecordRejected",
    "RemoteProtocolError",
    "SchemaMismatch",
    "StreamReset",
    "Unreachable",
]


class MoshgridError(Exception):
    """Base of every error that moshgrid raises on purpose."""


class ConfigurationError(MoshgridError):
    """An argument or option is not usable; the text says what is allowed."""


class LocalProtocolError(MoshgridError):
    """This side broke a protocol's rules: a bug here or in the calling code."""


class RemoteProtocolError(MoshgridError):
    """The peer broke a protocol's rules.

    ``peer`` is its peer id, ``reason`` what it did.
    """

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason


class Unreachable(MoshgridError):
    """No connection, or no answer in time.

    ``peer`` is the peer id (or the address when no id is known); ``attempts`` are pairs of what
    was tried and how it failed, in the order of trying.
    """

    def __init__(self, peer: str, attempts: Sequence[tuple[str, str]] = ()) -> None:
        lines = "".join(f"\n  {tried}   {outcome}" for tried, outcome in attempts)
        super().__init__(f"{peer} could not be reached{':' if attempts else ''}{lines}")
        self.peer = peer
        self.attempts = tuple(attempts)


class StreamReset(Unreachable):
    """A stream ended abruptly: the peer reset it, crashed, or its connection was lost."""


class AccessDenied(MoshgridError):
    """The network or the run does not admit this peer; the text says how to be admitted."""


class SchemaMismatch(MoshgridError):
    """Tensors differ in number, shape or dtype from those of the run.

    ``diff`` has one line per tensor that differs.
    """

    def __init__(self, summary: str, diff: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([summary, *diff]))
        self.diff = tuple(diff)


class RecordRejected(MoshgridError):
    """A record broke a rule of the store. ``code`` is the reject code, for example ``EXPIRED``."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Closed(MoshgridError):
    """The object was closed before or during the call."""

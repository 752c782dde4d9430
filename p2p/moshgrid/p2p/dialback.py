"""Dial-back: strangers call this peer where it believes that it can be called; a nonce proves that they did.

``/moshgrid/dialback/1.0.0``: the asker names to a peer that it knows, its introducer, where others might
reach it. The introducer passes that on to peers of its own, the witnesses, in other address groups. Each
calls the asker from an address that the asker never called, so that no hole of its own making lets the call
in, and brings the nonce over ``/moshgrid/dialback-proof/1.0.0``. A witness that was contacted before proves
nothing.

What a stranger can cause with it: one call by each of at most three witnesses, to the very IP address that it
comes from, at a bounded rate. The witness calls but sends nothing that the asker chose, except the nonce, and
that only to the peer that it asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import group_of, is_home, is_nowhere, plain_ip
from moshgrid.p2p.requests import Service
from moshgrid.p2p.token_bucket import TokenBucket

__all__ = [
    "DIALBACK",
    "MAX_PLACES",
    "NONCE_BYTES",
    "PROOF",
    "AskDialBack",
    "Called",
    "DialBackAnswer",
    "DialBackRates",
    "PassedOn",
    "Target",
    "may_be_called",
    "witnesses_for",
]

NONCE_BYTES = 16
MAX_PLACES = 2
MAX_WITNESSES = 3
_MAX_AVOIDED = 64
_MAX_PEERS = 4096

_Host = Annotated[str, msgspec.Meta(max_length=45)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A place to call, and the nonce to bring there."""

    host: _Host
    port: _Port
    nonce: _Nonce


_Targets = Annotated[tuple[Target, ...], msgspec.Meta(min_length=1, max_length=MAX_PLACES)]


class AskDialBack(msgspec.Struct, frozen=True, tag="ask"):
    """Have me called at one of ``targets``, by peers outside the address groups ``avoid``."""

    targets: _Targets
    avoid: Annotated[tuple[_Host, ...], msgspec.Meta(max_length=_MAX_AVOIDED)] = ()


class PassedOn(msgspec.Struct, frozen=True, tag="for"):
    """Call ``peer`` at ``targets``, once each."""

    peer: Annotated[str, msgspec.Meta(max_length=128)]
    targets: _Targets


class Called(msgspec.Struct, frozen=True):
    """How one witness fared. ``came_through``: to which of the targets, by index."""

    group: Annotated[str, msgspec.Meta(max_length=64)]
    came_through: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_PLACES)]
    knows_you: bool = False
    """It is connected with the asker, and so did not call."""


class DialBackAnswer(msgspec.Struct, frozen=True):
    """What the witnesses say; no more than a hint, as only the nonce proves anything."""

    called: Annotated[tuple[Called, ...], msgspec.Meta(max_length=MAX_WITNESSES)]


DIALBACK: Service[AskDialBack | PassedOn, DialBackAnswer] = Service(
    "/moshgrid/dialback/1.0.0",
    AskDialBack | PassedOn,
    DialBackAnswer,
    max_query=4096,
    max_answer=1024,
    deadline=6.0,
    concurrency=4,
    rate=2.0,
    burst=8.0,
    streams=2,
)
PROOF = "/moshgrid/dialback-proof/1.0.0"


def may_be_called(targets: Sequence[Target], asker: str | None) -> bool:
    """True when every target may be called for somebody; ``asker``, unless None, is the only host allowed."""
    try:
        return all(
            not is_home(target.host)
            and not is_nowhere(target.host)
            and (asker is None or plain_ip(target.host) == plain_ip(asker))
            for target in targets
        )
    except ValueError:
        return False


def witnesses_for(
    asker: str, avoid: Iterable[str], connected: Iterable[tuple[PeerId, str]]
) -> list[tuple[PeerId, str]]:
    """At most three of ``connected`` (peers and where they are), each in a group of its own.

    None is in the group of ``asker`` or in one to ``avoid``, and none is a neighbour of ours. Those seen over
    the address family of ``asker`` come first: of others nobody knows whether they can call there.
    """
    taken = {group_of(asker), *avoid}
    chosen: list[tuple[PeerId, str]] = []
    seen = set[PeerId]()
    for peer, host in sorted(connected, key=lambda each: (":" in each[1]) != (":" in asker)):
        if peer in seen:
            continue
        try:
            if is_home(host) or (group := group_of(host)) in taken:
                continue
        except ValueError:
            continue
        taken.add(group)
        seen.add(peer)
        chosen.append((peer, host))
        if len(chosen) == MAX_WITNESSES:
            break
    return chosen


class DialBackRates:
    """How often one peer may cause calls, and all of them together."""

    def __init__(self, now: float, rate: float = 0.2, burst: float = 6.0, all_rate: float = 5.0) -> None:
        self._rate, self._burst = rate, burst
        self._all = TokenBucket(all_rate, all_rate * 4, now)
        self._peers: OrderedDict[PeerId, TokenBucket] = OrderedDict()

    def allows(self, peer: PeerId, now: float) -> bool:
        """Counts one request of ``peer``; False when it asks too often, or everybody does."""
        if (bucket := self._peers.pop(peer, None)) is None:
            bucket = TokenBucket(self._rate, self._burst, now)
        self._peers[peer] = bucket
        while len(self._peers) > _MAX_PEERS:
            self._peers.popitem(last=False)
        return bucket.take(now) and self._all.take(now)

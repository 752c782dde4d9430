"""The host: what the layers share inside the event loop: network, requests, clock, chance, event log."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.event_log import EventLog
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.network import Network
from moshgrid.p2p.peer_exchange import serve_peer_exchange
from moshgrid.p2p.requests import Requests

__all__ = ["Host", "network_id", "open_host"]

_log = logging.getLogger("moshgrid.p2p")

_LAYER_SECONDS = 1.0


def network_id(name: str) -> bytes:
    """The 16 bytes that keep records and peers of one named network apart from all others."""
    return hashlib.sha256(name.encode()).digest()[:16]


@dataclass(frozen=True)
class Host:
    """Lives as long as the peer; its nursery owns every task that the layers start."""

    network: Network
    identity: Identity
    requests: Requests
    nursery: trio.Nursery
    clock: Clock
    rng: random.Random
    events: EventLog
    network_name: str
    bootstrap: tuple[str, ...]
    """Full multiaddrs of peers to join through; may be empty."""
    layers: dict[str, Any] = field(default_factory=dict)
    """What the layers keep once per host, by layer name; each layer reads only its own entry.

    One with an ``async def aclose()`` is closed with the host, the last one first.
    """

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self.identity.peer_id


@asynccontextmanager
async def open_host(
    network: Network,
    identity: Identity,
    *,
    network_name: str = "public",
    bootstrap: tuple[str, ...] = (),
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Host]:
    """A host over ``network``; leaving the context closes its layers and cancels what runs."""
    clock = clock or Clock()
    events = EventLog(identity.peer_id, clock)
    try:
        async with trio.open_nursery() as nursery:
            requests = Requests(network, nursery)
            serve_peer_exchange(network, requests)
            host = Host(
                network=network,
                identity=identity,
                requests=requests,
                nursery=nursery,
                clock=clock,
                rng=rng or random.Random(),
                events=events,
                network_name=network_name,
                bootstrap=bootstrap,
            )
            try:
                yield host
            finally:
                await _close_layers(host)
            nursery.cancel_scope.cancel()
    finally:
        events.close()


async def _close_layers(host: Host) -> None:
    """Lets each layer leave politely, the last one first; none may hold up the others for long."""
    for name, layer in reversed(host.layers.items()):
        aclose = getattr(layer, "aclose", None)
        if aclose is None:
            continue
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAYER_SECONDS) as scope:
            try:
                await aclose()
            except Exception:  # the root of this layer's end: the others must still get theirs
                _log.exception("closing the %s layer failed", name)
        if scope.cancelled_caught:
            _log.warning("closing the %s layer took over %g s; going on without it", name, _LAYER_SECONDS)

"""The host: what the layers share inside the event loop: network, requests, clock, chance, event log."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.event_log import EventLog
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.network import Network
from moshgrid.p2p.requests import Requests

__all__ = ["Host", "network_id", "open_host"]


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
    """A host over ``network``; leaving the context cancels everything that runs on it."""
    clock = clock or Clock()
    events = EventLog(identity.peer_id, clock)
    try:
        async with trio.open_nursery() as nursery:
            yield Host(
                network=network,
                identity=identity,
                requests=Requests(network, nursery),
                nursery=nursery,
                clock=clock,
                rng=rng or random.Random(),
                events=events,
                network_name=network_name,
                bootstrap=bootstrap,
            )
            nursery.cancel_scope.cancel()
    finally:
        events.close()

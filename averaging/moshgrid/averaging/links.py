"""Links: one stream to each peer that this host averages with, carrying the frames of all runs.

Awaits, and decides nothing: what is sent is queued in order, what arrives is handed to the run named in
the frame, and a link that ends is reported to every run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from moshgrid.averaging.incoming_links import IncomingLinks
from moshgrid.averaging.outgoing_link import PROTOCOL, OutgoingLink, Queued
from moshgrid.averaging.part_memory import PartMemory, Payload
from moshgrid.averaging.resumption import GRACE_SECONDS
from moshgrid.averaging.throughput import Throughput
from moshgrid.averaging.wire import Frame
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["LinkUser", "Links"]

_LAYER = "averaging"
_MAX_QUEUED = 65536


class LinkUser(Protocol):
    """A run that uses the links. All methods are called in the loop and must not block."""

    def frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        """A whole frame of this run came from ``peer``."""
        ...

    def bytes_arrived(self, peer: PeerId, count: int) -> None:
        """``count`` bytes came from ``peer``, of whatever run."""
        ...

    def link_down(self, peer: PeerId, seconds: float) -> None:
        """The relay of a link with ``peer`` is gone; within so many seconds it may go on over another."""
        ...

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """The link to or from ``peer`` ended."""
        ...


class Links:
    """All links of a host; get it with ``Links.of``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._users: dict[bytes, LinkUser] = {}
        self._outboxes: dict[PeerId, trio.MemorySendChannel[Queued]] = {}
        self._outgoing: dict[PeerId, OutgoingLink] = {}
        self.memory = PartMemory()
        """What frames are received into; parts to be sent may be encoded into it."""
        self._throughput = Throughput()
        self._incoming = IncomingLinks(
            self.memory, self._frame_arrived, self._heard, self._down, self._tell_lost
        )
        host.nursery.start_soon(self._incoming.give_up_broken)
        host.network.serve(PROTOCOL, self._incoming.take)
        host.network.on_lost(self._disconnected)

    @classmethod
    def of(cls, host: Host) -> Links:
        """The links of ``host``, made on the first call."""
        links = host.layers.get(_LAYER)
        if links is None:
            links = host.layers[_LAYER] = cls(host)
        assert isinstance(links, Links)
        return links

    @property
    def bandwidth(self) -> float:
        """Bytes per second that this host was measured to move each way; 0 when not known yet."""
        return self._throughput.bandwidth

    def attach(self, run: bytes, user: LinkUser) -> None:
        """Hands frames of ``run`` (16 bytes) to ``user``. Raises ValueError when it has one already."""
        if run in self._users:
            raise ValueError("this node takes part in that run already")
        self._users[run] = user

    def detach(self, run: bytes) -> None:
        """Stops handing frames of ``run`` to anybody."""
        self._users.pop(run, None)
        self.memory.keep(run, 0)

    def send(
        self,
        peer: PeerId,
        header: bytes,
        payload: Payload = b"",
        sent: Callable[[], None] | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        """Queues a frame; a link that cannot take it is reported lost.

        ``sent`` is called in the loop when the stream has taken all of it; never, when the link is lost.
        ``wanted`` is asked when its turn comes: on a slow link that may be when nobody needs it any more.
        """
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox, queue = trio.open_memory_channel[Queued](_MAX_QUEUED)
            self._outboxes[peer] = outbox
            down = partial(self._down, peer)
            link = OutgoingLink(self._host.network, peer, queue, down, self._throughput.sent)
            self._host.nursery.start_soon(self._carry, link, peer, outbox)
        try:
            outbox.send_nowait(Queued(header, payload, sent, wanted))
        except trio.WouldBlock:
            self._close_outbox(peer, outbox)
            self._lost(peer, f"more than {_MAX_QUEUED} messages wait to be sent")

    async def _carry(self, link: OutgoingLink, peer: PeerId, outbox: trio.MemorySendChannel[Queued]) -> None:
        self._outgoing[peer] = link
        try:
            reason = await link.run()
        finally:
            was_closed = self._outboxes.get(peer) is not outbox
            self._close_outbox(peer, outbox)
            if self._outgoing.get(peer) is link:
                del self._outgoing[peer]
        if not was_closed:  # else that was told, and there may be another link by now
            self._lost(peer, reason)

    def _close_outbox(self, peer: PeerId, outbox: trio.MemorySendChannel[Queued]) -> None:
        outbox.close()
        if self._outboxes.get(peer) is outbox:
            del self._outboxes[peer]

    def _frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        user = self._users.get(frame.run)
        if user is not None:
            user.frame_arrived(peer, frame)

    def _heard(self, peer: PeerId, count: int) -> None:
        self._throughput.received(count, trio.current_time())
        for user in self._users.values():
            user.bytes_arrived(peer, count)

    def _disconnected(self, peer: PeerId) -> None:
        link = self._outgoing.get(peer)
        if not (self._incoming.outlives_streams(peer) or (link and link.outlives_streams)):
            self._lost(peer, "the connection was lost")

    def _down(self, peer: PeerId) -> None:
        for user in list(self._users.values()):
            user.link_down(peer, GRACE_SECONDS)

    def _lost(self, peer: PeerId, reason: str) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is not None:
            self._close_outbox(peer, outbox)
        self._tell_lost(peer, reason)

    def _tell_lost(self, peer: PeerId, reason: str) -> None:
        # The link to a peer that closed its own stays: else two that lost each other would close in turns.
        for user in list(self._users.values()):
            user.link_lost(peer, reason)

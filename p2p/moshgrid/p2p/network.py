"""The seam to the network: what a transport must offer, and nothing above may assume more.

Two implementations pass one contract suite: ``moshgrid.p2p.testing.MemoryNetwork`` (virtual time)
and the libp2p one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.identity import PeerId

__all__ = ["Buffer", "Network", "Stream", "StreamHandler"]

Buffer = bytes | bytearray | memoryview
"""Bytes to send. Nobody may change them before ``send`` returns."""


class Stream(Protocol):
    """An ordered, reliable, authenticated byte stream to one peer.

    One task may send while another receives; two tasks must not send (or receive) at once.
    """

    @property
    def peer(self) -> PeerId:
        """The authenticated peer at the other end."""
        ...

    @property
    def protocol(self) -> str:
        """The protocol id both sides agreed on."""
        ...

    async def send(self, data: Buffer | Sequence[Buffer]) -> None:
        """Sends all of ``data``, one buffer or several in order, waiting while the receiver's window is full.

        Large buffers are sent from where they are. Raises StreamReset when the stream or its connection is
        gone. Cancelled, an unknown part is sent: reset the stream then; the connection is not harmed.
        """
        ...

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """One to ``max_bytes`` bytes, or ``b""`` after the peer's clean end.

        Raises StreamReset when the peer reset the stream or the connection was lost.
        """
        ...

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Puts what arrives into ``buffer``: one byte at least; 0 after the peer's clean end.

        The fastest way to receive much: with a large buffer, data is copied once. Raises StreamReset as
        ``receive`` does, LocalProtocolError for an empty buffer. Cancelled, nothing is lost.
        """
        ...

    async def close_write(self) -> None:
        """Tells the peer that nothing more will be sent; receiving goes on."""
        ...

    async def close(self) -> None:
        """Ends both directions in good order and frees the stream. Never raises StreamReset."""
        ...

    async def reset(self) -> None:
        """Aborts both directions at once; the peer sees StreamReset. Never raises."""
        ...


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Called in a task of its own for each inbound stream, which is closed when it returns.

An exception inside resets that stream, is logged once with the peer, and touches nothing else.
"""


class Network(Protocol):
    """A peer's presence on a network."""

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        ...

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where others can dial this peer: full multiaddrs that end in ``/p2p/<peer id>``."""
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Hands each inbound stream of ``protocol`` to ``handler`` from now on."""
        ...

    async def dial(self, addr: str) -> PeerId:
        """Connects to a full multiaddr and returns the authenticated peer.

        Returns at once when connected already. Raises Unreachable.
        """
        ...

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream to ``peer``, dialling its known addresses when not connected.

        Raises Unreachable (``attempts`` lists each address), or RemoteProtocolError when the
        peer does not speak ``protocol``.
        """
        ...

    def learn_addrs(self, peer: PeerId, addrs: Sequence[str], seq: int | None = None) -> None:
        """Remembers addresses for later dials; bounded per peer, newest first.

        ``seq``: they are what the peer's own signed record with this sequence number says, which outranks
        what others say and replaces what an older one said.
        """
        ...

    def addrs_of(self, peer: PeerId) -> tuple[str, ...]:
        """Addresses known for a peer, full multiaddrs; empty when none."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Peers with a live connection now."""
        ...

    def is_direct(self, peer: PeerId) -> bool:
        """True when a live connection to ``peer`` is direct; False when none is, or only relayed ones."""
        ...

    def circuit_of(self, peer: PeerId) -> CircuitInfo | None:
        """The circuit that new streams to ``peer`` go through; None when they go directly, or nowhere."""
        ...

    async def reach_directly(self, peer: PeerId, seconds: float) -> bool:
        """Tries to get a direct connection to ``peer`` by dialling and hole punching; True when there is one.

        At once when there is one already. Never raises because the peer cannot be reached, and never takes
        longer than ``seconds``; a relayed connection stays in use where no direct one came about.
        """
        ...

    def observed_ip(self, peer: PeerId) -> str | None:
        """The IP address that a live direct connection to ``peer`` goes to; None when there is none.

        Seen, not claimed: what an identity costs.
        """
        ...

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` in the loop when the last connection to a peer ends.

        Returns a function that takes the listener off again.
        """
        ...

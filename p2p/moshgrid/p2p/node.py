"""``Node``: this computer as a peer, for blocking code. The event loop runs in a background thread."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from moshgrid.p2p.errors import Closed
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.link import Link
from moshgrid.p2p.node_core import DEFAULT_LISTEN, NodeConfig, NodeCore
from moshgrid.p2p.reachability import Reachability, reachability_of
from moshgrid.p2p.runtime import Operation, refuse_inside_event_loop

__all__ = ["Node"]

Args = ParamSpec("Args")
Result = TypeVar("Result")


class Node:
    """A peer: identity, encrypted streams, typed requests; the layers build on it.

    ``listen``: multiaddrs, by default all interfaces and any free port. ``bootstrap``: full multiaddrs
    of peers to join through; that none answers is no error, they are tried again. ``identity``: None
    for a new one in memory, the path of a key file (made when missing), or an ``Identity``.
    ``network``: peers of differently named networks ignore each other. ``psk``: the key of a private
    network, whose peers connect with nobody else: 32 bytes, the text of a libp2p key file, or its path.
    ``relay``: this node passes connections on to peers that cannot be reached, within ``RelayLimits``.
    ``use_relays``: whether this node may be reached through relays; None: where that is of use, which it
    is not for a node that everybody reaches, or that listens on this computer only. ``map_port``: when
    nobody outside reaches this node, the router is asked to forward its port (PCP, NAT-PMP, UPnP). Raises
    ConfigurationError.

    From asyncio use ``AsyncNode``.
    """

    def __init__(
        self,
        listen: Sequence[str] = DEFAULT_LISTEN,
        bootstrap: Sequence[str] = (),
        identity: Identity | str | os.PathLike[str] | None = None,
        network: str = "public",
        psk: object = None,
        relay: bool = False,
        use_relays: bool | None = None,
        map_port: bool = True,
    ) -> None:
        refuse_inside_event_loop()
        core = NodeCore(NodeConfig(listen, bootstrap, identity, network, psk, relay, use_relays, map_port))
        try:
            self._host = core.ready.result()
        except BaseException:
            core.abort()
            raise
        self._core = core

    @classmethod
    def from_link(cls, link: str | Link, **kwargs: Any) -> Node:
        """A node in the network of ``link``, joining through its addresses."""
        parsed = link if isinstance(link, Link) else Link.parse(link)
        return cls(**{"network": parsed.network, "bootstrap": parsed.bootstrap, **kwargs})

    @property
    def peer_id(self) -> PeerId:
        """This peer's id."""
        return self._host.peer_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where others can dial this peer: full multiaddrs ending in ``/p2p/<id>``."""
        return self._host.network.addrs

    @property
    def reachability(self) -> Reachability:
        """How others can reach this peer, as far as is known: within 5 s of meeting the first of them."""
        return reachability_of(self._host)

    @property
    def network(self) -> str:
        """The network's name."""
        return self._host.network_name

    @property
    def link(self) -> str:
        """A ``moshgrid://`` link through which others join."""
        return str(Link(self.network, None, self.addrs))

    @property
    def host(self) -> Host:
        """What layers build on, to be used inside the event loop only."""
        return self._core.host

    def call(self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Runs the async ``fn(*args)`` in the event loop and waits for its result; for layers."""
        refuse_inside_event_loop()
        operation: Operation[Result] = Operation()
        try:
            self._core.submit(operation, partial(fn, *args, **kwargs))
            return operation.result()
        except CancelledError:
            raise Closed("this node was closed during the call") from None
        except KeyboardInterrupt:
            operation.abandon()
            raise

    def soon(
        self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs
    ) -> Future[Result]:
        """Starts the async ``fn(*args)`` in the event loop; cancelling the future cancels it."""
        operation: Operation[Result] = Operation()
        self._core.submit(operation, partial(fn, *args, **kwargs))
        return operation

    def close(self) -> None:
        """Leaves the network, layers first; at most 5 s; may be called again."""
        self._core.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Node({self.peer_id}, network={self.network!r})"

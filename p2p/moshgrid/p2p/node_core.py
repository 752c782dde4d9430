"""What ``Node`` and ``AsyncNode`` share: the checked configuration and the life of the host behind them."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from moshgrid.p2p.addresses import parse_listen
from moshgrid.p2p.errors import Closed, ConfigurationError, Unreachable
from moshgrid.p2p.host import Host, open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.link import Link
from moshgrid.p2p.network import Network
from moshgrid.p2p.private_network import load_psk
from moshgrid.p2p.prompt_future import PromptFuture
from moshgrid.p2p.relaying import Relaying
from moshgrid.p2p.runtime import Operation, Runtime

__all__ = ["DEFAULT_LISTEN", "NodeConfig", "NodeCore"]

Result = TypeVar("Result")

_log = logging.getLogger("moshgrid.p2p")

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0",)
"""All interfaces (a node that listens on loopback only is found by nobody), any free port."""

_RETRY_SECONDS = (5.0, 15.0, 60.0)
_CLOSE_SECONDS = 4.0  # and one more for the thread


@dataclass(frozen=True)
class NodeConfig:
    """The arguments of a node, checked. Raises ConfigurationError."""

    listen: Sequence[str] = DEFAULT_LISTEN
    bootstrap: Sequence[str] = ()
    identity: Identity | str | os.PathLike[str] | None = None
    network: str = "public"
    psk: object = field(default=None, repr=False)
    relay: bool = False
    use_relays: bool | None = None
    map_port: bool = True
    keys: Identity = field(init=False)
    psk_bytes: bytes | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "psk_bytes", None if self.psk is None else load_psk(self.psk))
        if not isinstance(self.relay, bool):
            raise ConfigurationError(f"relay= takes True or False, not {self.relay!r}")
        if not isinstance(self.map_port, bool):
            raise ConfigurationError(f"map_port= takes True or False, not {self.map_port!r}")
        if not isinstance(self.use_relays, bool | None):
            raise ConfigurationError(f"use_relays= takes True, False or None, not {self.use_relays!r}")
        for name in ("listen", "bootstrap"):
            given = getattr(self, name)
            if isinstance(given, str):
                given = (given,)
            if not isinstance(given, Sequence) or not all(isinstance(addr, str) for addr in given):
                raise ConfigurationError(f"{name}= takes a sequence of multiaddrs as text, not {given!r}")
            object.__setattr__(self, name, tuple(given))
        if not isinstance(self.network, str):
            raise ConfigurationError(f"network= takes a name as text, not {self.network!r}")
        for addr in self.listen:
            parse_listen(addr)
        Link(self.network, None, tuple(self.bootstrap))  # the checks are the same
        object.__setattr__(self, "keys", self._load_identity())

    def _load_identity(self) -> Identity:
        if self.identity is None:
            return Identity.generate()
        if isinstance(self.identity, Identity):
            return self.identity
        if isinstance(self.identity, str | os.PathLike):
            return Identity.load_or_create(self.identity)
        raise ConfigurationError(
            "identity= takes None (a new one in memory), the path of a key file, or an Identity, "
            f"not {self.identity!r}"
        )


class NodeCore:
    """A host in the background loop, from its start to its end."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.ready: PromptFuture[Host] = PromptFuture()
        self._stop = trio.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._operations: set[Operation[Any]] = set()
        self._life: Operation[None] = Operation()
        self._runtime = Runtime()
        self._runtime.submit(self._life, self._live)
        _open.add(self)

    @property
    def host(self) -> Host:
        """The host. Raises Closed."""
        if self._closing:
            raise Closed("this node is closed")
        return self.ready.result(timeout=0)

    async def _live(self) -> None:
        try:
            async with _open_node_host(self.config) as host:
                self.ready.set_result(host)
                await self._stop.wait()
        except BaseException as error:
            if self.ready.done():
                raise
            self.ready.set_exception(error)

    def submit(self, operation: Operation[Result], fn: Callable[[], Awaitable[Result]]) -> None:
        """Starts ``fn()`` in the loop as ``operation``; closing the node cancels it. Raises Closed."""
        with self._lock:
            if self._closing:
                raise Closed("this node is closed")
            self._operations.add(operation)
        operation.add_done_callback(self._operations.discard)
        self._runtime.submit(operation, fn)

    def close(self) -> None:
        """Ends the host, its layers first, within 5 s, and the thread when nobody else uses it."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        _open.discard(self)
        if self._runtime.is_foreign:
            return
        for operation in list(self._operations):
            operation.cancel()
        try:
            self._runtime.submit(Operation(), self._set_stop)
            self._life.result(timeout=_CLOSE_SECONDS)
        except FutureTimeout:
            _log.warning("closing took over %g s; leaving without a goodbye", _CLOSE_SECONDS)
            self._life.cancel()
        except CancelledError:
            pass  # a start that was given up
        except Exception:
            _log.exception("the node did not end well")
        finally:
            self._runtime.release()

    async def _set_stop(self) -> None:
        self._stop.set()

    def abort(self) -> None:
        """Gives up a start that was interrupted or failed."""
        self._life.cancel()
        self.close()


_open: weakref.WeakSet[NodeCore] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for core in list(_open):
        core.close()


@asynccontextmanager
async def _open_node_host(config: NodeConfig) -> AsyncIterator[Host]:
    """A running host with its network, joining through the bootstrap peers in the background."""
    # Imported here because it takes over half a second, and not everybody who imports us dials.
    try:
        from moshgrid.p2p.libp2p_network import Libp2pNetwork, open_libp2p_network
        from moshgrid.p2p.libp2p_reachability import ReachabilityWatch
    except ImportError as error:
        raise ConfigurationError(
            f"py-libp2p cannot be imported: {error}. Install it with  pip install 'libp2p>=0.8.1,<0.9'  "
            "(on Debian or Ubuntu first:  apt install build-essential python3-dev libgmp-dev)"
        ) from error
    async with (
        open_libp2p_network(config.keys, config.listen, config.psk_bytes) as network,
        open_host(
            network, config.keys, network_name=config.network, bootstrap=tuple(config.bootstrap)
        ) as host,
    ):
        assert isinstance(network, Libp2pNetwork)
        relaying = Relaying(network, host, serves=config.relay, reserves=config.use_relays)
        watch = ReachabilityWatch(network, host, relaying.learned, map_port=config.map_port)
        host.nursery.start_soon(relaying.run)
        host.nursery.start_soon(watch.run)
        if config.bootstrap:
            host.nursery.start_soon(_join, network, tuple(config.bootstrap))
        yield host


async def _join(network: Network, bootstrap: tuple[str, ...]) -> None:
    """Dials the bootstrap peers, and while none answers again and again: it may be up later than we."""
    level = logging.WARNING
    for pause in itertools.chain(_RETRY_SECONDS, itertools.repeat(_RETRY_SECONDS[-1])):
        failures: list[tuple[str, str]] = []
        reached: list[str] = []

        async def reach(
            addr: str, failures: list[tuple[str, str]] = failures, reached: list[str] = reached
        ) -> None:
            try:
                await network.dial(addr)
                reached.append(addr)
            except Unreachable as error:
                failures.extend(error.attempts)

        async with trio.open_nursery() as nursery:
            for addr in bootstrap:
                if f"/p2p/{network.peer_id}" not in addr:
                    nursery.start_soon(reach, addr)
        if reached or not failures:
            return
        lines = "".join(f"\n  {tried}   {outcome}" for tried, outcome in failures)
        _log.log(
            level,
            "none of %d bootstrap addresses answered; going on alone, next try in %g s:%s",
            len(failures),
            pause,
            lines,
        )
        level = logging.INFO  # said once; who wants to follow it can
        await trio.sleep(pause)

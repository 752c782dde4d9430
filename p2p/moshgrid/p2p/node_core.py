"""What ``Node`` and ``AsyncNode`` share: the checked configuration and the life of the host behind them."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from moshgrid.p2p.addresses import parse_listen
from moshgrid.p2p.errors import ConfigurationError, Unreachable
from moshgrid.p2p.host import Host, open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.link import Link
from moshgrid.p2p.network import Network

__all__ = ["DEFAULT_LISTEN", "NodeConfig", "open_node_host"]

_log = logging.getLogger("moshgrid.p2p")

DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0",)
"""All interfaces (a node that listens on loopback only is found by nobody), any free port."""

_RETRY_SECONDS = (5.0, 15.0, 60.0)


@dataclass(frozen=True)
class NodeConfig:
    """The arguments of a node, checked. Raises ConfigurationError."""

    listen: Sequence[str] = DEFAULT_LISTEN
    bootstrap: Sequence[str] = ()
    identity: Identity | str | os.PathLike[str] | None = None
    network: str = "public"
    psk: object = None
    relay: bool = False
    keys: Identity = field(init=False)

    def __post_init__(self) -> None:
        if self.psk is not None:
            raise ConfigurationError("psk= (private networks) is not available in this version; leave it out")
        if self.relay:
            raise ConfigurationError("relay=True is not available in this version; leave it out")
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


@asynccontextmanager
async def open_node_host(config: NodeConfig) -> AsyncIterator[Host]:
    """A running host with its network, joining through the bootstrap peers in the background."""
    # Imported here because it takes over half a second, and not everybody who imports us dials.
    try:
        from moshgrid.p2p.libp2p_network import open_libp2p_network
    except ImportError as error:
        raise ConfigurationError(
            f"py-libp2p cannot be imported: {error}. Install it with  pip install 'libp2p>=0.8.1,<0.9'  "
            "(on Debian or Ubuntu first:  apt install build-essential python3-dev libgmp-dev)"
        ) from error
    async with (
        open_libp2p_network(config.keys, config.listen) as network,
        open_host(
            network, config.keys, network_name=config.network, bootstrap=tuple(config.bootstrap)
        ) as host,
    ):
        if config.bootstrap:
            host.nursery.start_soon(_join, network, tuple(config.bootstrap))
        yield host


async def _join(network: Network, bootstrap: tuple[str, ...]) -> None:
    """Dials the bootstrap peers, and while none answers again and again: it may be up later than we."""
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
        _log.warning(
            "none of %d bootstrap addresses answered; going on alone, next try in %g s:%s",
            len(failures),
            pause,
            lines,
        )
        await trio.sleep(pause)

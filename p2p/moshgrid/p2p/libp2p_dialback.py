"""The three parts in a dial-back: the asker, its introducer, and the witness that calls."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from moshgrid.p2p.dialback import (
    DIALBACK,
    NONCE_BYTES,
    PROOF,
    AskDialBack,
    Called,
    DialBackAnswer,
    DialBackRates,
    PassedOn,
    Target,
    may_be_called,
    witnesses_for,
)
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import group_of, is_home
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.network import Stream
from moshgrid.p2p.observed_addrs import Place

if TYPE_CHECKING:
    from moshgrid.p2p.libp2p_network import Libp2pNetwork

__all__ = ["DialBack"]

_log = logging.getLogger("moshgrid.p2p")

_CALL_SECONDS = 2.0
_WITNESS_SECONDS = 2.6
_ASK_SECONDS = 3.2
_NONCES = 256
_NONCE_SECONDS = 10.0
_CALLS_AT_ONCE = 8
_AVOIDED = 64

Proof = Callable[[Place, str], None]
"""Called with what was proven, and the IP address of the stranger that came through."""


class DialBack:
    """Serves all three. ``proven`` hears of every call that counts."""

    def __init__(self, network: Libp2pNetwork, host: Host, proven: Proof) -> None:
        self._network = network
        self._host = host
        self._proven = proven
        self._nonces: dict[bytes, tuple[Place, float]] = {}
        """What each is to prove, and until when it may."""
        self._rates = DialBackRates(host.clock.now())
        self._passed_on = DialBackRates(host.clock.now(), rate=1.0, burst=8.0)
        self._calls = 0
        host.requests.serve(DIALBACK, self._answer)
        network.serve(PROOF, self._take_proof)

    # The asker.

    async def ask(self, introducer: PeerId, places: tuple[Place, ...]) -> tuple[int, int]:
        """Has strangers call ``places``; how many tried, and how many of them say they did not come through.

        Raises Unreachable, RemoteProtocolError. What they prove comes by itself.
        """
        targets = tuple(Target(host, port, secrets.token_bytes(NONCE_BYTES)) for host, port in places)
        for target, place in zip(targets, places, strict=True):
            self._nonces[target.nonce] = place, self._host.clock.now() + _NONCE_SECONDS
        while len(self._nonces) > _NONCES:
            del self._nonces[next(iter(self._nonces))]
        query = AskDialBack(targets, self._network.caller.contacts.newest(_AVOIDED))
        answer = await self._host.requests.ask(introducer, DIALBACK, query, _ASK_SECONDS)
        tried = [called for called in answer.called if not called.knows_you]
        return len(tried), sum(not called.came_through for called in tried)

    async def _take_proof(self, stream: Stream) -> None:
        """A witness calls. It counts when it is a stranger, and the call is its own."""
        assert isinstance(stream, Libp2pStream)
        connection = stream.connection
        nonce = b""
        with trio.move_on_after(_CALL_SECONDS):
            while len(nonce) < NONCE_BYTES and (piece := await stream.receive(NONCE_BYTES - len(nonce))):
                nonce += piece
        place, until = self._nonces.get(nonce, (None, 0.0))
        if place is None:
            raise RemoteProtocolError(stream.peer, "called back with a nonce that nobody gave it")
        if self._host.clock.now() > until:
            _log.debug("%s called back too late", stream.peer)
            return
        remote = connection.get_remote_address()
        if remote is None or connection.is_initiator or connection.is_relayed:
            raise RemoteProtocolError(stream.peer, "called back over a connection that is not its own call")
        if is_home(remote[0]) or self._network.caller.contacts.knows(remote[0]):
            _log.debug("%s called back from %s, where we called before", stream.peer, remote[0])
            return
        self._proven(place, remote[0])

    # The introducer and the witness.

    async def _answer(self, peer: PeerId, query: AskDialBack | PassedOn) -> DialBackAnswer:
        now = self._host.clock.now()
        if isinstance(query, PassedOn):
            if not self._passed_on.allows(peer, now):
                raise Unreachable(peer, [(DIALBACK.protocol, "passed on too often; try again later")])
            return DialBackAnswer((await self._call(PeerId(query.peer), query.targets),))
        if not self._rates.allows(peer, now):
            raise Unreachable(peer, [(DIALBACK.protocol, "asked too often; try again later")])
        seen_at = self._network.observed_ips(peer)
        address = next((host for host in seen_at if may_be_called(query.targets, host)), None)
        if address is None or is_home(address):
            raise RemoteProtocolError(peer, "asked for calls to where it does not come from")
        connected = [
            (other, host)
            for other in self._network.connected() - {peer}
            for host in self._network.observed_ips(other)
        ]
        self._host.rng.shuffle(connected)
        called: list[Called] = []
        async with trio.open_nursery() as nursery:
            for witness, _ in witnesses_for(address, query.avoid, connected):
                nursery.start_soon(self._pass_on, witness, PassedOn(peer, query.targets), called)
        return DialBackAnswer(tuple(called))

    async def _pass_on(self, witness: PeerId, query: PassedOn, called: list[Called]) -> None:
        try:
            answer = await self._host.requests.ask(witness, DIALBACK, query, _WITNESS_SECONDS)
        except MoshgridError as error:
            _log.debug("%s was not a witness: %s", witness, error)
            return
        called.extend(answer.called[:1])

    async def _call(self, peer: PeerId, targets: tuple[Target, ...]) -> Called:
        own = self._own_host(six=":" in targets[0].host)
        if peer == self._host.peer_id or not may_be_called(targets, None):
            raise RemoteProtocolError(peer, "is to be called where no stranger can be")
        if not all(self._network.interfaces.lead_to(target.host) for target in targets):
            raise Unreachable(peer, [(DIALBACK.protocol, "this peer has no way to such addresses")])
        group = "" if own is None else group_of(own)
        hosts = {target.host for target in targets}
        if peer in self._network.connected() and (
            not (met_at := self._network.observed_ips(peer))
            or not hosts.isdisjoint(met_at)  # else it has moved, or is to be called over another family
        ):
            return Called(group, (), knows_you=True)
        if self._calls >= _CALLS_AT_ONCE:
            raise Unreachable(peer, [(DIALBACK.protocol, "too many calls are under way")])
        self._calls += 1
        came_through: list[int] = []
        try:
            async with trio.open_nursery() as nursery:
                for index, target in enumerate(targets):
                    nursery.start_soon(self._call_at, peer, index, target, came_through)
        finally:
            self._calls -= 1
        return Called(group, tuple(sorted(came_through)))

    async def _call_at(self, peer: PeerId, index: int, target: Target, came_through: list[int]) -> None:
        with trio.move_on_after(_CALL_SECONDS):
            try:
                connection = await self._network.caller.call_back(target.host, target.port, peer)
            except DialFailed as error:
                _log.debug("%s was called back at %s port %d: %s", peer, target.host, target.port, error)
                return
            try:
                await self._network.begin(connection)
                stream = await self._network.open_on(connection, PROOF)
                await stream.send(target.nonce)
                await stream.close_write()
                await stream.receive(1)  # it has read the nonce, and ends the stream
                came_through.append(index)
                await stream.close()
            except (StreamReset, Unreachable, RemoteProtocolError) as error:
                _log.debug("%s was called back and did not listen: %s", peer, error)
            finally:
                if index not in came_through:
                    connection.leave("it was called back and did not listen")
                # Else it is a direct connection as good as any, and ends as they do, for being idle: either
                # side may have begun to use it.

    def _own_host(self, six: bool) -> str | None:
        """Where others see us in a family."""
        return next((host for host in self._network.offering.hosts() if (":" in host) == six), None)

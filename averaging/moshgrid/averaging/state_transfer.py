"""Downloads the newest state of a run from several donors at once, every chunk verified. Awaits.

Which state is decided by ``state_choice``, which chunk from whom by ``state_download``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import trio

from moshgrid.averaging.chunk_transfer import ChunkTransfer, ProgressSink
from moshgrid.averaging.kept_download import KeptDownload
from moshgrid.averaging.landing import Landing
from moshgrid.averaging.part_work import Offload, in_threads
from moshgrid.averaging.state import Description, NamedDescription, brief_of
from moshgrid.averaging.state_choice import Choice, choose_state
from moshgrid.averaging.state_keeping import MAX_ROUNDS
from moshgrid.averaging.state_service import STATE, GetDescription, GetState, Offer
from moshgrid.averaging.vouching import Trust
from moshgrid.dht.diversity import place_of
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["StateClient"]

_ASK_SECONDS = 5.0
_CHUNK_SECONDS = 30.0
_MOST_ASKED = 128
_ASKED_AT_ONCE = 32
_LOOKS = 4
"""Times to ask everybody again while no state has a majority: a round is just being sealed."""
_LOOK_SECONDS = 0.4

_log = logging.getLogger("moshgrid.averaging")


class StateClient:
    """Asks ``peers`` of a run for its state. ``schema``: of what the run averages; None takes any."""

    def __init__(
        self,
        host: Host,
        run: bytes,
        trust: Trust,
        schema: bytes | None,
        peers: Callable[[], Sequence[PeerId]],
        fits: Callable[[NamedDescription], None] = lambda description: None,
        kept: KeptDownload | None = None,
        offload: Offload = in_threads,
    ) -> None:
        """``fits`` raises for a named state that is of no use here, before anything of it is downloaded.

        What comes of a state is ``kept``, for who is interrupted and asks again.
        """
        self._host = host
        self._run = run
        self._fits = fits
        self._trust = trust
        self._schema = schema
        self._peers = peers
        self._kept = kept
        self._offload = offload

    async def newest(
        self, progress: ProgressSink | None = None, older: Landing | None = None, at_least: int = 0
    ) -> tuple[Landing, tuple[PeerId, ...]] | None:
        """The newest state that is to be believed, complete, and who gave it; None when there is none.

        Of ``older`` (a state that this peer has), whatever is the same is not downloaded again. None, too,
        when the newest is of a round before ``at_least``. A download that was interrupted goes on while
        there are donors of it: ``rounds_after`` then leads to the newest.
        """
        refused: set[bytes] = set()
        while (choice := await self._choose(refused)) is not None and choice.state.round >= at_least:
            if older is None:
                choice = await self._begun_before(choice, at_least, refused)
            landing = await self._get(choice, older, progress, self._kept)
            if landing is not None:
                return landing, choice.donors
            refused.add(choice.state.id)
        return None

    async def _begun_before(self, choice: Choice, at_least: int, refused: set[bytes]) -> Choice:
        """The state whose download was interrupted, where it is nearly as new; else ``choice``."""
        begun = None if self._kept is None else await self._offload(self._kept.begun)
        if begun is None or begun.id in refused or begun.schema != choice.state.schema:
            return choice
        if not max(at_least, choice.state.round - MAX_ROUNDS) <= begun.round < choice.state.round:
            return choice
        donors = await self._late_donors(begun.id)
        return Choice(begun, tuple(donors), False) if donors else choice

    async def rounds_after(self, number: int) -> list[Landing]:
        """The averages of the rounds that follow ``number`` without a gap, as far as peers keep them."""
        found: list[Landing] = []
        while True:
            offers = await self._offers(self._to_ask(), GetState(self._run, number))
            after = {
                peer: brief
                for peer, offer in offers.items()
                for brief in offer.rounds
                if brief.round == number + 1
            }
            choice = choose_state(after, self._votes(offers), self._schema, self._trust.authority)
            landing = None if choice is None else await self._get(choice)
            if landing is None:
                return found
            found.append(landing)
            number += 1

    async def _choose(self, refused: set[bytes]) -> Choice | None:
        choice = None
        for look in range(_LOOKS):
            if look:
                await trio.sleep(_LOOK_SECONDS)
            offers = await self._offers(self._to_ask(), GetState(self._run))
            states = {
                peer: offer.state
                for peer, offer in offers.items()
                if offer.state is not None and offer.state.id not in refused
            }
            choice = choose_state(states, self._votes(offers), self._schema, self._trust.authority)
            if choice is None or choice.has_majority:
                break
        return choice

    def _to_ask(self) -> list[PeerId]:
        """Peers of as many address blocks as there are, in an order of chance."""
        peers = [peer for peer in self._peers() if peer != self._host.peer_id]
        self._host.rng.shuffle(peers)
        turn: dict[str, int] = {}
        order: list[tuple[int, int, PeerId]] = []
        for peer in peers:
            block = self._known_block(peer) or peer
            turn[block] = turn.get(block, 0) + 1
            order.append((turn[block], len(order), peer))
        return [peer for _, _, peer in sorted(order)][:_MOST_ASKED]

    def _known_block(self, peer: PeerId) -> str | None:
        addrs = self._host.network.addrs_of(peer)
        place = place_of(addrs[0], exempt_local=False) if addrs else None
        return place[0] if place is not None else None

    def _votes(self, offers: dict[PeerId, Offer]) -> dict[PeerId, float]:
        tokens = {peer: offer.admission for peer, offer in offers.items()}
        return self._trust.of(tokens, self._block, self._host.clock.wall_ms())

    def _block(self, peer: PeerId) -> str | None:
        """The address block that a peer was reached in, whatever it says itself."""
        ip = self._host.network.observed_ip(peer)
        if ip is None:
            return None
        place = place_of(f"/ip{6 if ':' in ip else 4}/{ip}", exempt_local=False)
        return place[0] if place is not None else None

    async def _offers(self, peers: Sequence[PeerId], query: GetState) -> dict[PeerId, Offer]:
        offers: dict[PeerId, Offer] = {}
        limit = trio.CapacityLimiter(_ASKED_AT_ONCE)

        async def ask(peer: PeerId) -> None:
            async with limit:
                try:
                    answer = await self._host.requests.ask(peer, STATE, query, _ASK_SECONDS)
                except MoshgridError as error:
                    _log.info("no state from %s: %s", peer, error)
                    return
            if isinstance(answer, Offer):
                offers[peer] = answer

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(ask, peer)
        return offers

    async def _get(
        self,
        choice: Choice,
        older: Landing | None = None,
        progress: ProgressSink | None = None,
        kept: KeptDownload | None = None,
    ) -> Landing | None:
        description = await self._describe(choice)
        if description is None:
            return None
        if isinstance(description, NamedDescription):
            self._fits(description)
        landing = Landing(description)
        if older is not None:
            landing.take_over(older)
        keep = None
        try:
            if kept is not None:
                await self._offload(kept.resume, landing)
                keep = partial(self._offload, kept.add)
            transfer = ChunkTransfer(
                self._host, self._run, landing, choice, progress, self._late_donors, keep
            )
            return landing if await transfer.run() else None
        finally:
            if kept is not None:
                kept.close()

    async def _describe(self, choice: Choice) -> Description | NamedDescription | None:
        for donor in choice.donors:
            query = GetDescription(self._run, choice.state.id)
            try:
                answer = await self._host.requests.ask(donor, STATE, query, _CHUNK_SECONDS)
            except MoshgridError as error:
                _log.info("%s does not describe its state: %s", donor, error)
                continue
            if isinstance(answer, Description | NamedDescription) and answer.id == choice.state.id:
                if answer.is_sound and brief_of(answer) == choice.state:
                    return answer
                _log.warning("the state of round %d that %s offers makes no sense", answer.round, donor)
                return None
        return None

    async def _late_donors(self, state: bytes) -> list[PeerId]:
        """Who has the state by now."""
        offers = await self._offers(self._to_ask()[:_ASKED_AT_ONCE], GetState(self._run, id=state))
        return [peer for peer, offer in offers.items() if offer.state is not None and offer.state.id == state]

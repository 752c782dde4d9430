"""Late join over the in-memory network: many newcomers, lost donors, overtaken downloads, crowds of liars."""

import pytest
import trio
from state_crowd import RUN, SCHEMA, crowd, sent_by, state

from moshgrid.averaging.state import KeptState, keep_named
from moshgrid.averaging.state_service import MAX_UPLOADS
from moshgrid.averaging.state_transfer import StateClient
from moshgrid.averaging.vouching import Trust, admit
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import run_virtual


def test_chunks_come_from_several_donors_at_once_and_progress_is_told():
    kept = keep_named(state(3), SCHEMA)

    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add(kept) for _ in range(4)]
            joiner = await group.add()
            sent, told = sent_by(donors), []
            began = trio.current_time()
            landing, givers = await joiner.client.newest(told.append)
            seconds = trio.current_time() - began
            assert landing.named().arrays["weight"].tobytes() == state(3).arrays["weight"].tobytes()
            assert landing.named().meta == {"epoch": 3}
            assert set(givers) == {donor.id for donor in donors}
            total = sum(kept.description.lengths)
            assert sum(sent.values()) == total
            assert all(count >= total / 8 for count in sent.values()) and len(sent) == 4
            assert 8 * 2**20 / 10e6 < seconds < 1.5  # the joiner's own link is what limits
            assert [each.bytes_done for each in told] == sorted(each.bytes_done for each in told)
            assert told[-1].bytes_done == told[-1].bytes_total == total and told[-1].donors == 4
            assert told[-1].seconds_left == 0 and told[3].seconds_left > 0 and told[3].rate > 1e6

    run_virtual(main)


@pytest.mark.parametrize("seed", range(3))
def test_the_download_goes_on_when_donors_are_lost(seed):
    kept = keep_named(state(3), SCHEMA)

    async def main():
        async with crowd(rate=10e6, seed=seed) as group:
            donors = [await group.add(kept) for _ in range(3)]
            joiner = await group.add()
            sent = sent_by(donors)

            def progress(at):
                if at.bytes_done > at.bytes_total / 3 and donors[0] in group.peers:
                    group.peers.remove(donors[0])
                    group.nursery.start_soon(crash)

            async def crash():
                group.crash(donors[0])

            landing, _ = await joiner.client.newest(progress)
            assert landing.named().arrays["weight"].tobytes() == state(3).arrays["weight"].tobytes()
            # Little is sent twice: what is here stays here.
            assert sum(sent.values()) < 1.5 * sum(kept.description.lengths)

    run_virtual(main)


def test_a_donor_that_sends_other_bytes_is_left_out():
    kept = keep_named(state(3), SCHEMA)
    forged = KeptState(kept.description, tuple((1, bytes(len(data))) for _, data in kept.chunks))

    async def main():
        async with crowd(rate=10e6) as group:
            await group.add(forged)
            await group.add(forged)
            await group.add(kept)
            joiner = await group.add()
            landing, _ = await joiner.client.newest()
            assert landing.named().arrays["weight"].tobytes() == state(3).arrays["weight"].tobytes()

    run_virtual(main)


def test_ten_newcomers_at_once_spread_over_the_donors_and_become_donors():
    kept = keep_named(state(3), SCHEMA)

    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add(kept) for _ in range(2)]
            joiners = [await group.add() for _ in range(10)]
            sent = sent_by([*donors, *joiners])
            seconds = {}
            began = trio.current_time()

            async def join(peer):
                landing, _ = await peer.client.newest()
                peer.serve(landing.kept())
                assert landing.named().arrays["weight"].tobytes() == state(3).arrays["weight"].tobytes()
                seconds[peer.id] = trio.current_time() - began

            async with trio.open_nursery() as nursery:
                for peer in joiners:
                    nursery.start_soon(join, peer)
            total = sum(kept.description.lengths)
            counts = [sent[peer.id] / total for peer in donors]
            assert max(counts) < 1.5 * min(counts), counts
            by_joiners = sum(sent[peer.id] for peer in joiners) / total
            assert by_joiners > 1.5, by_joiners
            # Two donors alone would take ten states' bytes over two links.
            assert max(seconds.values()) < 10 * total / 10e6 / 2, seconds
            assert len(donors) * MAX_UPLOADS < 10

    run_virtual(main)


def test_a_newcomer_that_is_overtaken_gets_the_state_it_began_with_to_its_end():
    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add() for _ in range(3)]
            for donor in donors:
                donor.donated.serve_named(lambda: state(3))
            joiner = await group.add()
            sent, moved = sent_by(donors), []

            def progress(at):
                number = 3 + int(5 * at.bytes_done / at.bytes_total)
                if number > 3 and number not in moved:
                    moved.append(number)
                    for donor in donors:
                        donor.donated.serve_named(lambda: state(number, seed=number))

            landing, _ = await joiner.client.newest(progress)
            assert moved == [4, 5, 6, 7, 8]
            assert landing.named().round == 3
            assert landing.named().arrays["weight"].tobytes() == state(3).arrays["weight"].tobytes()
            assert sum(sent.values()) < 1.2 * sum(landing.description.lengths)
            # A second look takes only what is new.
            again, _ = await joiner.client.newest(older=landing)
            assert again.named().round == 8

    run_virtual(main)


def test_a_hundred_identities_of_one_block_do_not_change_what_a_newcomer_takes():
    kept = keep_named(state(3, megabytes=1), SCHEMA)
    forged = keep_named(state(4, seed=9, megabytes=1), SCHEMA)

    async def main():
        async with crowd(rate=100e6) as group:
            for i in range(3):
                await group.add(kept, ip=f"198.51.{i}.7")
            for i in range(100):
                await group.add(forged, ip=f"203.0.113.{i + 1}")
            joiner = await group.add(ip="192.0.2.1")
            landing, givers = await joiner.client.newest()
            assert landing.description.id == kept.description.id and len(givers) == 3

    run_virtual(main)


def test_with_an_authority_strangers_do_not_change_what_a_newcomer_takes():
    kept = keep_named(state(3, megabytes=1), SCHEMA)
    forged = keep_named(state(4, seed=9, megabytes=1), SCHEMA)
    authority = Identity.from_seed(b"\xff" * 32)

    async def main():
        async with crowd(Trust("public", authority.peer_id), rate=100e6) as group:
            for i in range(4):
                member = Identity.from_seed(i.to_bytes(32, "big")).peer_id
                token = admit(authority, member, "public", 2**52)
                await group.add(kept, ip=f"198.51.100.{i}", admission=token)
            for i in range(40):
                await group.add(forged, ip=f"203.{i}.113.1", admission=token)  # a member's, overheard
            joiner = await group.add(ip="192.0.2.1")
            landing, givers = await joiner.client.newest()
            assert landing.description.id == kept.description.id and len(givers) == 4

    run_virtual(main)


def test_a_state_that_does_not_fit_is_refused_before_it_is_downloaded():
    class Other(Exception):
        pass

    def fits(description):
        assert [str(spec) for spec in description.arrays] == ["(262144,) float32"]
        raise Other

    async def main():
        async with crowd() as group:
            donor = await group.add(keep_named(state(3, megabytes=1), SCHEMA))
            joiner = await group.add()
            sent = sent_by([donor])
            client = StateClient(joiner.host, RUN, group.trust, SCHEMA, lambda: [donor.id], fits)
            with pytest.raises(Other):
                await client.newest()
            assert not sent

    run_virtual(main)

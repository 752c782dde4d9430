"""A download that is kept on disk: what a process that is started again takes from there, and what not."""

import sys
import threading

import numpy as np
import pytest
import trio
from state_crowd import RUN, SCHEMA, crowd, sent_by, state

from moshgrid.averaging import Averager
from moshgrid.averaging.kept_download import KeptDownload
from moshgrid.averaging.landing import Landing
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.part_work import inline
from moshgrid.averaging.state import Chunk, keep_named
from moshgrid.averaging.state_transfer import StateClient
from moshgrid.p2p import ConfigurationError, Node
from moshgrid.p2p.testing import run_virtual

SIZE = 24
KEPT = keep_named(state(3, megabytes=SIZE), SCHEMA)
CHUNKS = len(KEPT.description.digests)
BYTES = sum(KEPT.description.lengths)


def client_of(joiner, group, file):
    """The joiner's process as it is after a start."""
    peers = [peer.id for peer in group.peers]
    return StateClient(
        joiner.host, RUN, group.trust, SCHEMA, lambda: peers, kept=KeptDownload(file), offload=inline
    )


async def begin(client, share):
    """A download whose process ends when it has that share of it."""
    with trio.CancelScope() as scope:
        await client.newest(lambda at: scope.cancel() if at.bytes_done >= share * at.bytes_total else None)
    assert scope.cancelled_caught


def is_state(landing, number, seed=0):
    named = landing.named()
    return (
        named.round == number and (named.arrays["weight"] == state(number, seed, SIZE).arrays["weight"]).all()
    )


def test_a_process_that_is_started_again_goes_on_with_its_download(tmp_path):
    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add(KEPT) for _ in range(3)]
            joiner = await group.add()
            sent, told = sent_by(donors), []
            await begin(client_of(joiner, group, tmp_path / "x"), 0.7)
            assert (tmp_path / "x").stat().st_size < 1.01 * BYTES + 20_000
            landing, _ = await client_of(joiner, group, tmp_path / "x").newest(told.append)
            assert is_state(landing, 3)
            # Beside the whole only what was under way when it ended.
            assert sum(sent.values()) < 1.3 * BYTES
            assert told[0].bytes_before > 0.6 * BYTES and told[-1].bytes_done == BYTES
            assert told[-1].rate < 12e6  # of what came now

    run_virtual(main)


def test_a_run_that_went_on_meanwhile_lets_it_have_the_state_that_it_began_with(tmp_path):
    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add() for _ in range(3)]
            for donor in donors:
                donor.donated.serve_named(lambda: state(3, megabytes=SIZE))
            joiner = await group.add()
            sent = sent_by(donors)
            await begin(client_of(joiner, group, tmp_path / "x"), 0.7)
            for donor in donors:
                donor.donated.serve_named(lambda: state(5, 5, SIZE))
            landing, _ = await client_of(joiner, group, tmp_path / "x").newest()
            assert is_state(landing, 3)
            assert sum(sent.values()) < 1.3 * BYTES
            again, _ = await client_of(joiner, group, tmp_path / "x").newest(older=landing)
            assert is_state(again, 5, seed=5)

    run_virtual(main)


def test_of_an_outdated_download_only_what_is_still_the_same_is_used(tmp_path):
    half = BYTES // 8
    newer = state(9, 9, SIZE)
    newer.arrays["weight"][:half] = state(3, megabytes=SIZE).arrays["weight"][:half]
    newer = keep_named(newer, SCHEMA)

    async def main():
        async with crowd(rate=10e6) as group:
            donors = [await group.add(KEPT) for _ in range(3)]
            joiner = await group.add()
            await begin(client_of(joiner, group, tmp_path / "x"), 0.95)
            for donor in donors:
                donor.donated.keeping.__init__()
                donor.serve(newer)
            sent = sent_by(donors)
            landing, _ = await client_of(joiner, group, tmp_path / "x").newest()
            assert landing.description.id == newer.description.id
            assert 0.5 * BYTES <= sum(sent.values()) < 0.65 * BYTES
            # The file is the new state's now, and holds nothing else.
            assert KeptDownload(tmp_path / "x").begun().round == 9
            assert (tmp_path / "x").stat().st_size < 1.01 * BYTES + 20_000
            assert [each.name for each in tmp_path.iterdir()] == ["x"]

    run_virtual(main)


def kept_file(file, parts):
    """A file with the state's chunks ``parts``."""
    kept = KeptDownload(file)
    kept.resume(Landing(KEPT.description))
    for part in parts:
        kept.add(part, KEPT.chunk(part))
    kept.close()
    return file


def in_file(file):
    """The chunks that a new process takes from it."""
    landing = Landing(KEPT.description)
    kept = KeptDownload(file)
    kept.resume(landing)
    kept.close()
    everything = set(range(len(KEPT.description.digests)))
    for part in everything - set(landing.missing):
        at = part * KEPT.description.chunk_bytes
        assert bytes(landing._buffer[at:][: KEPT.description.lengths[part]]) == KEPT.chunk(part).data
    return everything - set(landing.missing)


@pytest.mark.parametrize("damage", range(12))
def test_a_damaged_file_costs_what_is_damaged_and_nothing_else(tmp_path, damage):
    file = kept_file(tmp_path / "x", [5, 2, 9, 11])
    assert in_file(file) == {5, 2, 9, 11}
    data = bytearray(file.read_bytes())
    chance = np.random.default_rng(damage)
    if damage < 4:  # torn
        del data[int(chance.integers(len(data))) :]
    elif damage < 8:  # some bits of it are wrong
        data[int(chance.integers(len(data)))] ^= 0x10
    elif damage < 10:  # in the head
        data[int(chance.integers(2000))] ^= 0x81
    else:  # something else
        data = chance.bytes(5000)
    file.write_bytes(bytes(data))
    assert in_file(file) <= {5, 2, 9, 11}
    assert kept_file(file, range(CHUNKS)) and in_file(file) == set(range(CHUNKS))


def test_a_file_never_grows_beyond_its_state(tmp_path):
    file = kept_file(tmp_path / "x", [*range(CHUNKS)] * 3)
    assert in_file(file) == set(range(CHUNKS))
    assert file.stat().st_size < BYTES + 20_000


def test_a_chunk_that_another_digest_names_is_not_taken(tmp_path):
    kept = KeptDownload(tmp_path / "x")
    kept.resume(Landing(KEPT.description))
    kept.add(1, Chunk(1, bytes(KEPT.description.lengths[1])))  # as somebody else may write it there
    kept.close()
    assert in_file(tmp_path / "x") == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_where_nothing_can_be_written_the_download_goes_on_without(tmp_path, caplog):
    import resource

    (tmp_path / "file").write_bytes(b"")

    async def main():
        async with crowd(rate=100e6) as group:
            for _ in range(3):
                await group.add(KEPT)
            joiner = await group.add()
            landing, _ = await client_of(joiner, group, tmp_path / "file" / "x").newest()
            assert is_state(landing, 3)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, limits[1]))  # as a full disk
            try:
                landing, _ = await client_of(joiner, group, tmp_path / "x").newest()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert is_state(landing, 3)

    run_virtual(main)
    assert caplog.text.count("a download cannot be kept in") == 2
    assert 0 < len(in_file(tmp_path / "x")) < CHUNKS


def test_an_averager_goes_on_with_a_download_and_leaves_no_file(tmp_path):
    values = np.random.default_rng(1).standard_normal(4 * 2**20).astype(np.float32)
    loopback = ["/ip4/127.0.0.1/tcp/0"]
    options = {"like": [values], "compression": "none", "downloads": tmp_path / "downloads"}
    told, enough, cancelled = [], threading.Event(), threading.Event()

    def until_cancelled(at):
        if at.bytes_done > at.bytes_total / 3:
            enough.set()
            cancelled.wait(30)

    with (
        Node(listen=loopback) as first,
        Averager(first, "r", **options) as donor,
        Node(listen=loopback, bootstrap=first.addrs) as node,
        Averager(node, "r", **options) as late,
    ):
        donor.serve_state(lambda: NamedState(1, {"w": values}))
        download = node.soon(late._core.state.fetch, until_cancelled)
        assert enough.wait(60)
        download.cancel()
        cancelled.set()
        assert download.ended.wait(30)
        assert len(list((tmp_path / "downloads").iterdir())) == 1
        assert (late.fetch_state(told.append).named.arrays["w"] == values).all()
        assert told[0].bytes_before > values.nbytes / 4
        assert list((tmp_path / "downloads").iterdir()) == []


def test_what_is_no_folder_is_refused_at_once():
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node, pytest.raises(ConfigurationError, match="downloads"):
        Averager(node, "r", [np.zeros(3)], downloads=3)

"""``Averager`` and ``AsyncAverager`` over real libp2p, and a member killed with SIGKILL mid-round."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from averaging_processes import Process

from moshgrid.averaging import AsyncAverager, Averager
from moshgrid.dht import DHT
from moshgrid.p2p import AsyncNode, Node
from moshgrid.p2p.errors import ConfigurationError, LocalProtocolError, SchemaMismatch

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def bootstrap():
    with Node(listen=LOOPBACK) as node, DHT(node):
        yield node


def test_three_peers_average_and_a_fourth_fetches_their_state(bootstrap):
    vectors = [np.full(1000, i, np.float32) for i in range(3)]
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        nodes = [stack.enter_context(Node(listen=LOOPBACK, bootstrap=bootstrap.addrs)) for _ in range(4)]
        averagers = [stack.enter_context(Averager(node, "three", like=[vectors[0]])) for node in nodes[:3]]
        reports = list(pool.map(lambda pair: pair[0].step([pair[1]]), zip(averagers, vectors, strict=True)))
        assert all(report.committed for report in reports), reports
        assert all((vector == 1.0).all() for vector in vectors)
        assert len({report.digest for report in reports}) == 1
        assert str(reports[0]).startswith("round 1: averaged with 2 of 2 peers in ")
        assert json.loads(json.dumps(reports[0].to_dict()))["group"] == list(reports[0].group)
        late = stack.enter_context(Averager(nodes[3], "three", like=[np.zeros(1000, np.float32)]))
        snapshot = late.fetch_state()
        assert snapshot.round == late.round == 1
        assert (snapshot.arrays[0] == 1.0).all()
        assert set(snapshot.donors) == {node.peer_id for node in nodes[:3]}


def test_torch_tensors_are_averaged_in_place(bootstrap):
    torch = pytest.importorskip("torch")
    tensors = [torch.zeros(64, 8), torch.ones(64, 8)]
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        averagers = []
        for tensor in tensors:
            node = stack.enter_context(Node(listen=LOOPBACK, bootstrap=bootstrap.addrs))
            averagers.append(stack.enter_context(Averager(node, "torch", like=[tensor])))
        futures = [averagers[0].step_soon([tensors[0]], weight=3.0)]
        futures.append(pool.submit(averagers[1].step, [tensors[1]], weight=1.0))
        assert all(future.result(30).committed for future in futures)
    for tensor in tensors:
        assert torch.equal(tensor, torch.full((64, 8), 0.25))


@pytest.mark.parametrize("codec", ["int8", "bfloat16", "int4"])
def test_a_round_with_a_small_codec_and_a_reference(bootstrap, codec):
    start = np.random.default_rng(1).standard_normal(300_000).astype(np.float32)
    vectors = [start + np.float32(0.01 * i) for i in range(3)]
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        averagers = []
        for _ in vectors:
            node = stack.enter_context(Node(listen=LOOPBACK, bootstrap=bootstrap.addrs))
            averagers.append(stack.enter_context(Averager(node, codec, like=[start], compression=codec)))
        steps = zip(averagers, vectors, strict=True)
        reports = list(pool.map(lambda pair: pair[0].step([pair[1]], reference=[start]), steps))
        assert all(report.committed and report.codec == codec and report.reference for report in reports)
        assert np.abs(vectors[0] - (start + np.float32(0.01))).max() < 0.002
        assert all(vector.tobytes() == vectors[0].tobytes() for vector in vectors)
        assert codec == "bfloat16" or max(report.bytes_sent for report in reports) < 2.2 * start.size
        assert np.array_equal(averagers[0].fetch_state().arrays[0], vectors[0])


def test_bad_arguments_say_what_is_allowed(bootstrap):
    like = [np.zeros(3, np.float32)]
    for arguments, words in [
        ({"group_size": 1}, "2 to 64"),
        ({"min_group_size": 20}, "2 to group_size"),
        ({"compression": "zip"}, "none, float16"),
        ({"topology": "star"}, "moshpit, single"),
        ({"reducer": "krum"}, "mean, median, trimmed_mean"),
        ({"deadline": 60}, "at most 15"),
        ({"run_id": "a/b"}, "without '/'"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            Averager(bootstrap, **{"run_id": "bad", "like": like, **arguments})
    with Averager(bootstrap, "bad", like=like) as averager:
        with pytest.raises(ConfigurationError, match="takes part in that run already"):
            Averager(bootstrap, "bad", like=like)
        with pytest.raises(ConfigurationError, match="weight"):
            averager.step(like, weight=-1)
        with pytest.raises(ConfigurationError, match="rounds"):
            averager.step(like, rounds=0)
        with pytest.raises(SchemaMismatch):
            averager.step([np.zeros(4, np.float32)])
    with pytest.raises(ConfigurationError, match="which run"):
        Averager.join(bootstrap.link, like=like)


@pytest.mark.asyncio
async def test_the_async_twin_averages_from_asyncio():
    async with (
        AsyncNode(listen=LOOPBACK) as first,
        AsyncNode(listen=LOOPBACK, bootstrap=first.addrs) as second,
    ):
        arrays = [[np.zeros(10, np.float32)], [np.ones(10, np.float32)]]
        async with (
            AsyncAverager(first, "async", like=arrays[0]) as one,
            AsyncAverager(second, "async", like=arrays[1]) as two,
        ):
            reports = await asyncio.wait_for(asyncio.gather(one.step(arrays[0]), two.step(arrays[1])), 30)
            assert all(report.committed for report in reports)
            assert (arrays[0][0] == 0.5).all()
            assert (await two.fetch_state()).round == two.round == 1


@pytest.mark.asyncio
async def test_blocking_calls_inside_asyncio_name_the_twin():
    with pytest.raises(LocalProtocolError, match="AsyncNode"):
        Node(listen=LOOPBACK)


def test_a_member_killed_mid_round_neither_raises_nor_hangs(bootstrap):
    address = bootstrap.addrs[0]
    with ExitStack() as stack:
        processes = [Process(address, seed, "exchange_started" if seed == 0 else "") for seed in range(4)]
        for process in processes:
            stack.callback(process.end)
        names = [process.hear("ready")["peer"] for process in processes]
        for process in processes:
            process.step()
        processes[0].hear("holding")
        processes[0].popen.kill()
        told = [process.hear("report") for process in processes[1:]]
        reports = [entry["report"] for entry in told]
        assert all(report["committed"] for report in reports), reports
        assert len({report["digest"] for report in reports}) == 1
        for report in reports:
            assert names[0] in report["dropped"]
            assert all(report["contributors"][name] == 1.0 for name in names[1:])
        exact = np.mean([np.random.default_rng(seed).normal(size=5000) for seed in (1, 2, 3)], axis=0).sum()
        if all(report["contributors"][names[0]] == 0.0 for report in reports):
            assert told[0]["sum"] == pytest.approx(exact, abs=1e-2)
        for process in processes[1:]:
            process.step()
        again = [process.hear("report")["report"] for process in processes[1:]]
        assert all(report["committed"] and not report["dropped"] for report in again)
        assert all(set(report["group"]) == set(names[1:]) for report in again)

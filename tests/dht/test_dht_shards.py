"""Shards: which key an author uses, and a thousand authors under one key."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio

from moshgrid.dht import DHTNode
from moshgrid.dht.keys import BITS, point_of_peer
from moshgrid.dht.publishing import Publishing, draft
from moshgrid.dht.record import Author
from moshgrid.dht.shards import MARK, MAX_DEPTH, Depths, Splits, base_of, belongs, children, shard_of
from moshgrid.dht.wire import Found, GetRecords
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.testing import run_virtual

NOW = 1_700_000_000_000


@pytest.fixture
def author(identity: Callable[[int], Identity]) -> PeerId:
    return identity(1).peer_id


def test_the_shard_of_an_author_is_its_first_bits(author: PeerId) -> None:
    first = point_of_peer(author) >> (BITS - 1)
    assert shard_of(b"k", author, 0) == b"k"
    assert shard_of(b"k", author, 1) == b"k" + MARK + b"%d" % first
    for depth in range(MAX_DEPTH):
        shard = shard_of(b"k", author, depth)
        assert base_of(shard) == b"k" and belongs(shard, author)
        below = shard_of(b"k", author, depth + 1)
        (other,) = set(children(shard)) - {below}
        assert below in children(shard) and not belongs(other, author)


def test_there_are_no_shards_below_the_last_level_or_where_no_room_is_in_the_key(author: PeerId) -> None:
    assert children(shard_of(b"k", author, MAX_DEPTH)) == []
    assert children(b"k" * 128) == [] and len(children(b"k" * 126)[0]) == 128
    for odd in (MARK, MARK + b"2", MARK + b"0" * 13, MARK + b"01" + MARK):
        assert not belongs(b"k" + odd, author)


def test_a_split_is_remembered_for_an_hour_since_it_was_last_needed() -> None:
    splits = Splits()
    assert splits.note(b"k", NOW) and not splits.note(b"k", NOW + 1)
    assert splits.has(b"k", NOW + 3_600_000) and not splits.has(b"k", NOW + 3_600_001)
    assert splits.note(b"k", NOW + 3_600_001)
    for number in range(5000):
        splits.note(b"%d" % number, NOW + 3_600_001)
    assert not splits.has(b"k", NOW + 3_600_001)


def test_an_author_begins_at_the_top_again_after_half_an_hour() -> None:
    depths = Depths()
    depths.found(b"k", 1, NOW)
    depths.found(b"k", 2, NOW + 1_000_000)
    assert (depths.of(b"k", NOW + 1_799_999), depths.of(b"k", NOW + 1_800_000)) == (2, 0)
    depths.found(b"k", 1, NOW + 1_800_000)
    assert depths.of(b"k", NOW + 2_000_000) == 1


def test_users_cannot_name_a_shard(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(2) as net:
            with pytest.raises(ConfigurationError, match="control character"):
                await net.nodes[0].put("k\x1f0", 1)

    run_virtual(main)


def publisher(node: DHTNode, identity: Identity) -> Publishing:
    """What ``node`` would put with if it were ``identity``."""
    mine = node._publishing
    author = Author(identity, network_id("public"))
    host = _HostOf(node.host, identity.peer_id)
    return Publishing(
        host,  # type: ignore[arg-type]
        author, mine._reader, mine._namespaces, _NoStore(),  # type: ignore[arg-type]
        mine._reading, mine._writing, mine._watching, mine._reach,
    )  # fmt: skip


class _HostOf:
    def __init__(self, host: Any, peer_id: PeerId) -> None:
        self.peer_id, self.clock = peer_id, host.clock


class _NoStore:
    def put(self, *_: Any) -> None: ...


async def put_all(net: Any, publishers: list[Publishing], value: Any) -> None:
    at_once = trio.Semaphore(20)

    async def put(each: Publishing) -> None:
        async with at_once:
            (report,) = await each.put([draft("k", value, 3600, "")], 3)
            assert len(report.stored_at) >= 3
            await trio.sleep(5)  # storers take only so many messages a second from one sender

    async with trio.open_nursery() as nursery:
        for each in publishers:
            nursery.start_soon(put, each)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_authors_share_a_key(size: int, swarm: Any, identity: Callable[[int], Identity]) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            await trio.sleep(5)
            watcher, reader = net.nodes[1], net.nodes[2]
            heard: set[str] = set()

            async def listen() -> None:
                async with watcher.watch("k") as changes:
                    async for record in changes:
                        assert record.key == "k" and not record.deleted
                        heard.add(record.author)

            net.nursery.start_soon(listen)
            await trio.sleep(1)
            names = {identity(1000 + number).peer_id for number in range(size)}
            publishers = [publisher(net.nodes[n % 4], identity(1000 + n)) for n in range(size)]
            await put_all(net, publishers, 1)
            await trio.sleep(10)
            for node in net.nodes:
                most = [len(node.store.get(key, node.host.clock.wall_ms())) for key in node.store.all_keys()]
                assert max(most) <= 128
            found = await reader.get_all("k")
            assert set(found) == names and {record.key for record in found.values()} == {"k"}
            assert heard == names
            one = random.Random(1).choice(sorted(names))
            record = await net.nodes[3].get("k", one)
            assert record is not None and record.author == one

            assert set(await reader.get_all("k")) == names  # mends storers that lacked some, at first
            await trio.sleep(5)
            await reader.get_all("k")
            sent: list[int] = []
            requests: Any = reader.host.requests
            plain = requests.ask

            async def ask(peer: PeerId, service: Any, query: Any, *rest: Any) -> Any:
                answer = await plain(peer, service, query, *rest)
                if isinstance(query, GetRecords) and isinstance(answer, Found):
                    sent.append(len(answer.records))
                return answer

            requests.ask = ask
            assert set(await reader.get_all("k")) == names
            assert sum(sent) == 0  # nothing changed since
            await put_all(net, publishers[:10], 2)
            await trio.sleep(5)
            values = [record.value for record in (await reader.get_all("k")).values()]
            assert (values.count(2), values.count(1)) == (10, size - 10)
            assert 10 <= sum(sent) <= 10 * 8

    run_virtual(main)

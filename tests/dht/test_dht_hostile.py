"""Peers that lie or talk nonsense: the others go on, and believe nothing that is not signed."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import trio

from moshgrid.dht.record import Author
from moshgrid.dht.wire import (
    KAD,
    Answer,
    FindNode,
    Found,
    GetRecords,
    Ping,
    Pong,
    Push,
    PutRecords,
    Query,
    Received,
    Refusal,
    Taken,
    Watch,
    entry_of,
)
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.network import Stream
from moshgrid.p2p.testing import run_virtual

NET = network_id("public")


async def settle(net: Any, hostile: Any) -> None:
    """Lets the swarm find the hostile peer, which has to look honest for that."""
    await trio.sleep(3)
    assert all(node.table.knows(hostile.host.peer_id) for node in net.nodes if node is not hostile)


async def works(net: Any, hostile: Any) -> None:
    honest = [node for node in net.nodes if node is not hostile]
    for number, node in enumerate(honest):
        async with honest[0].watch("k") as channel:
            await node.put("k", number, suffix=str(number))
            with trio.fail_after(10):
                while (await channel.receive()).suffix != str(number):
                    pass
    for node in honest:
        records = await node.get_all("k")
        assert {record.value for record in records.values()} == set(range(len(honest)))
        assert hostile.host.peer_id not in records


@pytest.mark.parametrize("seed", range(5))
def test_garbage_for_answers_hurts_nobody(swarm: Any, seed: int) -> None:
    async def main() -> None:
        async with swarm(6, seed) as net:
            hostile = net.nodes[3]
            await settle(net, hostile)
            rng = random.Random(seed)
            me = entry_of(hostile.host.peer_id, ["/memory/99"])
            answers: list[Answer] = [
                Pong(me),
                Found([b"junk"], [me], True),
                Taken([b""] * 3),
                Received([b"k"]),
            ]

            async def garble(stream: Stream) -> None:
                reader = FrameReader(stream, 1 << 20)
                while (frame := await reader.read()) is not None:
                    body = bytearray(msgspec.msgpack.encode(rng.choice(answers)))
                    for _ in range(rng.randint(0, 3)):
                        body[rng.randrange(len(body))] = rng.randrange(256)
                    await send_frame(stream, b"\x01" + frame[1:5], bytes(body))

            hostile.host.network.serve(KAD.protocol, garble)
            for node in net.nodes:
                if node is not hostile:  # their open streams still lead to the honest handler
                    net.switch.disconnect(node.host.peer_id, hostile.host.peer_id)
            await works(net, hostile)
            await trio.sleep(120)
            await works(net, hostile)

    run_virtual(main, seed=seed)


def test_wrong_kinds_of_answers_hurt_nobody(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            hostile = net.nodes[3]
            await settle(net, hostile)
            rng = random.Random(1)
            victim = entry_of(net.nodes[0].host.peer_id, ["/memory/77/p2p/" + net.nodes[0].host.peer_id])
            answers: list[Answer] = [
                Pong(victim),
                Found(closer=[victim] * 20, more=True),
                Found([Author(Identity.from_seed(bytes(32)), NET).sign(b"x", b"\x01", 60_000, 1)], more=True),
                Taken([]),
                Taken([b"\xff\xfe"]),
                Received([b"k", b"other"]),
                Refusal(b"\xff"),
                Refusal(b"WRONG_NETWORK"),
            ]

            async def answer(sender: Any, query: Query) -> Answer:
                return rng.choice(answers)

            hostile.host.requests.serve(KAD, answer)
            for node in net.nodes:
                if node is not hostile:
                    net.switch.disconnect(node.host.peer_id, hostile.host.peer_id)
            await works(net, hostile)

    run_virtual(main)


def test_hostile_questions_hurt_nobody(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            hostile = net.nodes[3]
            await settle(net, hostile)
            victim = net.nodes[0].host
            me = entry_of(hostile.host.peer_id, ["/memory/99"])
            forged = Author(hostile.host.identity, NET).sign(b"k", b"\x01", 60_000, victim.clock.wall_ms())
            forged = forged.replace(hostile.host.identity.public_key, net.nodes[1].host.identity.public_key)
            queries: list[Query] = [
                Ping(NET, me),
                FindNode(NET, me, bytes(32), b"odd"),
                GetRecords(NET, b"\xff\xfe", b"\xff"),
                PutRecords(NET, [forged, b"", b"junk"], [b"odd"] * 3),
                Watch(NET, b"\xff"),
                Push(NET, [forged, b"junk"]),
            ]
            for query in queries:
                answer = await hostile.host.requests.ask(victim.peer_id, KAD, query)
                if isinstance(query, PutRecords):
                    assert answer == Taken([b"BAD_SIG", b"MALFORMED", b"NONCANONICAL"])
            with pytest.raises(RemoteProtocolError):
                await hostile.host.requests.ask(victim.peer_id, KAD, PutRecords(NET, [bytes(1537)]))
            await works(net, hostile)

    run_virtual(main)


def test_a_record_of_another_key_is_not_taken_for_this_one(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            hostile = net.nodes[3]
            await settle(net, hostile)
            clock = net.nodes[0].host.clock
            other = Author(net.nodes[1].host.identity, NET).sign(b"other", b"\x07", 60_000, clock.wall_ms())

            async def answer(sender: Any, query: Query) -> Answer:
                return Found([other])

            hostile.host.requests.serve(KAD, answer)
            net.switch.disconnect(net.nodes[0].host.peer_id, hostile.host.peer_id)
            assert await net.nodes[0].get_all("k") == {}

    run_virtual(main)


def test_two_payloads_under_one_seq_are_told_of_with_both_envelopes(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            hostile = net.nodes[3]
            await settle(net, hostile)
            storer, told = net.nodes[0].host, list[Any]()
            storer.events.add_sink(told.append)
            now = storer.clock.wall_ms()
            both = [
                Author(hostile.host.identity, NET).sign(b"k", value, 60_000, now) for value in (b"\1", b"\2")
            ]
            for envelope in both:
                await hostile.host.requests.ask(storer.peer_id, KAD, PutRecords(NET, [envelope]))
            (event,) = [event for event in told if event["event"] == "equivocated"]
            assert (event["author"], event["seq"]) == (hostile.host.peer_id, now)
            assert event["envelopes"] == [envelope.hex() for envelope in both]

    run_virtual(main)

"""Raw streams of a stranger against a DHT node, in memory and over libp2p: garbage, oversize, slow and
half-sent questions are refused or reset, cost bounded memory, and the node keeps serving."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from moshgrid.dht import DHTNode, dht_node
from moshgrid.dht.wire import KAD, Found, GetRecords, Ping, PutRecords
from moshgrid.p2p.errors import MoshgridError, StreamReset
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.host import network_id, open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.testing import MemorySwitch, run_virtual

NET = network_id("public")
QUERY, ANSWER, REFUSED = 0, 1, 2
READ_SECONDS = 0.5
Body = Callable[[Network, DHTNode], Awaitable[None]]


@asynccontextmanager
async def networks(kind: str) -> AsyncIterator[tuple[Network, Network, Identity]]:
    """A stranger's network and a victim's."""
    strange, own = Identity.from_seed(bytes([1]) * 32), Identity.from_seed(bytes([2]) * 32)
    if kind == "memory":
        async with MemorySwitch() as switch:
            yield switch.network(strange), switch.network(own), own
    else:
        listen = ("/ip4/127.0.0.1/tcp/0",)
        async with open_libp2p_network(strange, listen) as one, open_libp2p_network(own, listen) as other:
            yield one, other, own


@pytest.fixture(params=["memory", "libp2p"])
def attack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    """Runs a body with a stranger's network, connected to a DHT node."""
    monkeypatch.setattr(dht_node, "KAD", dataclasses.replace(KAD, read_seconds=READ_SECONDS))

    def run(body: Body) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                async with (
                    networks(request.param) as (stranger, network, own),
                    open_host(network, own) as host,
                ):
                    node = await DHTNode.of(host)
                    await node.put("k", 1)
                    await stranger.dial(network.addrs[0])
                    await body(stranger, node)
                    await serves(stranger, node)

        run_virtual(main) if request.param == "memory" else trio.run(main)

    return run


async def ask(stream: Stream, call: int, body: bytes) -> tuple[int, bytes]:
    """The kind and the body of the answer to one question."""
    await send_frame(stream, bytes([QUERY]) + call.to_bytes(4), body)
    frame = await FrameReader(stream, 1 << 20).read()
    assert frame is not None and frame[1:5] == call.to_bytes(4)
    return frame[0], frame[5:]


async def serves(stranger: Network, node: DHTNode) -> None:
    """The node answers whoever asks properly."""
    stream = await stranger.open_stream(node.host.peer_id, KAD.protocol)
    kind, body = await ask(stream, 7, msgspec.msgpack.encode(GetRecords(NET, b"k")))
    answer = KAD.answer_decoder.decode(body)
    assert kind == ANSWER and isinstance(answer, Found) and len(answer.records) == 1
    await stream.close()


async def ends(stream: Stream) -> None:
    """The node takes the stream away."""
    with pytest.raises(StreamReset), trio.fail_after(10):
        while await stream.receive():
            pass
        raise StreamReset  # ended, not reset: as good


def test_garbage_gets_a_typed_refusal_and_the_stream_goes_on(attack: Any) -> None:
    async def body(stranger: Network, node: DHTNode) -> None:
        stream = await stranger.open_stream(node.host.peer_id, KAD.protocol)
        chance = random.Random(1)
        good = msgspec.msgpack.encode(Ping(NET, None))
        for call in range(60):
            junk = chance.randbytes(chance.randrange(1, 200))
            kind, text = await ask(stream, call, junk if call % 2 else good[: chance.randrange(len(good))])
            assert kind == REFUSED and b"cannot be read" in text
        kind, _ = await ask(stream, 999, good)
        assert kind == ANSWER

    attack(body)


def test_frames_out_of_turn_and_oversize_end_their_stream_only(attack: Any) -> None:
    async def body(stranger: Network, node: DHTNode) -> None:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        over = (KAD.max_query + 6).to_bytes(4)
        headless, unknown = (3).to_bytes(4) + b"abc", (5).to_bytes(4) + b"\x09abcd"
        for start in (b"\xff\xff\xff\xff", over, headless, unknown, b"\0" * 4):
            stream = await stranger.open_stream(node.host.peer_id, KAD.protocol)
            await stream.send(start)
            await ends(stream)
        assert tracemalloc.get_traced_memory()[1] - before < 4 << 20
        tracemalloc.stop()
        stream = await stranger.open_stream(node.host.peer_id, KAD.protocol)
        kind, text = await ask(stream, 1, msgspec.msgpack.encode(PutRecords(NET, [bytes(1_537)])))
        assert kind == REFUSED and b"cannot be read" in text

    attack(body)


def test_slow_and_half_sent_questions_end_and_hold_up_nobody(attack: Any) -> None:
    async def body(stranger: Network, node: DHTNode) -> None:
        question = msgspec.msgpack.encode(Ping(NET, None))
        whole = (5 + len(question)).to_bytes(4) + bytes([QUERY]) + bytes(4) + question
        streams = [
            await stranger.open_stream(node.host.peer_id, KAD.protocol) for _ in range(KAD.streams - 1)
        ]
        for number, stream in enumerate(streams):
            await stream.send(whole[: 1 + number * 4])
        await serves(stranger, node)
        for stream in streams:
            await ends(stream)
        slow = await stranger.open_stream(node.host.peer_id, KAD.protocol)
        with pytest.raises((StreamReset, MoshgridError)), trio.fail_after(20):
            for at in range(len(whole)):  # each byte in time, the whole not
                await slow.send(whole[at : at + 1])
                await trio.sleep(READ_SECONDS / 4)
            raise AssertionError("a question that took ten times too long was read to its end")

    attack(body)


def test_whoever_goes_away_in_the_midst_is_forgotten(attack: Any) -> None:
    async def body(stranger: Network, node: DHTNode) -> None:
        for number in range(40):
            stream = await stranger.open_stream(node.host.peer_id, KAD.protocol)
            await stream.send(b"\0\0\0\x20" + bytes(number % 30))
            await (stream.reset() if number % 2 else stream.close_write())
            if number % 2 == 0:
                await ends(stream)

    attack(body)

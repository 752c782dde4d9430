"""Long ways: the forwarder's decisions with time and chance given, and a wire that is 50 ms long."""

from __future__ import annotations

import random
import socket
import time

import trio
from forwarder import Direction, Settings
from lab import Lab
from raw_sockets import can_connect
from wires import Wire

SO_RCVBUFFORCE = 33
IP = bytes(12) + b"\x08\x00" + bytes(86)  # 100 bytes
ARP = bytes(12) + b"\x08\x06" + bytes(86)


def test_frames_keep_their_order_and_wait_for_the_rate() -> None:
    wire = Direction(Settings(delay=0.05, jitter=0.01, rate=80_000, queue=0.035), random.Random(1))
    for number in range(5):
        wire.take(IP[:-1] + bytes([number]), now=1.0)
    assert wire.due(1.045) == []
    # 10 ms a frame: the fourth would wait for longer than the queue is.
    assert [frame[-1] for frame in wire.due(1.2)] == [0, 1, 2]
    assert wire.counts() == {"forwarded": 3, "lost": 0, "overflowed": 2}
    assert wire.deadline is None


def test_loss_repeats_with_the_seed_and_spares_arp() -> None:
    def arrived(seed: int) -> list[int]:
        wire = Direction(Settings(loss=0.3), random.Random(seed))
        for number in range(200):
            wire.take((ARP if number % 2 else IP)[:-1] + bytes([number]), now=0.0)
        frames = wire.due(0.0)
        assert wire.counts() == {"forwarded": len(frames), "lost": 200 - len(frames), "overflowed": 0}
        return [frame[-1] for frame in frames]

    assert arrived(1) == arrived(1) != arrived(2)
    assert [n for n in arrived(1) if n % 2] == list(range(1, 200, 2))
    assert 50 <= len([n for n in arrived(1) if not n % 2]) <= 90


def test_a_hundred_milliseconds_there_and_back(lab: Lab) -> None:
    """The time of connect tells the round trip; the quickest of five, as the machine may be busy."""
    one = lab.public_host("far-one", wire=Wire(delay=0.025))
    other = lab.public_host("far-other", wire=Wire(delay=0.025))

    async def main() -> list[float]:
        times = []
        with other.socket(port=5000) as listener:
            listener.listen()
            for _ in range(5):
                with one.socket() as sock:
                    start = time.monotonic()
                    await trio.socket.from_stdlib_socket(sock).connect((other.address, 5000))
                    times.append(time.monotonic() - start)
        return times

    times = trio.run(main)
    assert 0.1 <= min(times) < 0.15


def test_what_is_lost_is_counted(lab: Lab) -> None:
    near = lab.public_host("near")
    far = lab.public_host("lossy", wire=Wire(delay=0.001, loss=0.1, seed=7))
    trio.run(can_connect, far, 0, (near.address, 5000), 10)  # refused; now each end knows the next one
    before = lab.wires["lossy"].counts()["out"]["lost"]
    with near.socket(socket.SOCK_DGRAM) as sender, far.socket(socket.SOCK_DGRAM, 5000) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        for number in range(1000):
            sender.sendto(number.to_bytes(2, "big"), (far.address, 5000))
        arrived = []
        receiver.settimeout(1)
        try:
            while True:
                arrived.append(int.from_bytes(receiver.recv(16), "big"))
        except TimeoutError:
            pass
    out = lab.wires["lossy"].counts()["out"]
    assert out["overflowed"] == 0 and out["lost"] - before == 1000 - len(arrived)
    assert 60 <= 1000 - len(arrived) <= 140
    assert arrived == sorted(arrived)


def test_a_stream_comes_through_loss_unharmed(lab: Lab) -> None:
    """4 MB over TCP at 20 ms and 1 %: frames are whole, so checksums hold."""
    sender = lab.public_host("stream-a", wire=Wire(delay=0.005, loss=0.01, seed=3))
    receiver = lab.public_host("stream-b", wire=Wire(delay=0.005, jitter=0.001, seed=4))
    sent = random.Random(5).randbytes(4 << 20)

    async def main() -> bytes:
        received = bytearray()
        with receiver.socket(port=5001) as listening, sender.socket() as dialling:
            listening.listen()
            client = trio.SocketStream(trio.socket.from_stdlib_socket(dialling))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.socket.connect, (receiver.address, 5001))
                server, _ = await trio.socket.from_stdlib_socket(listening).accept()

            async def send() -> None:
                await client.send_all(sent)
                await client.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async for piece in trio.SocketStream(server):
                    received += piece
        return bytes(received)

    assert trio.run(main) == sent
    assert lab.wires["stream-a"].counts()["back"]["lost"] > 0

"""The data phase of both protocols: any chunks, any cuts, changes and cancellations on the way."""

import gc
import itertools
import os
import random
import socket
import tracemalloc

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from wire_pipe import pipe

from moshgrid.p2p import aead
from moshgrid.p2p.buffer_pool import BUFFER_BYTES
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_noise import NoiseTransport
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, raw_bytes_of
from moshgrid.p2p.libp2p_tls import TlsTransport
from moshgrid.p2p.noise_records import MAX_PLAINTEXT, NoiseRecords
from moshgrid.p2p.secure_channel import Outgoing, RecordError
from moshgrid.p2p.tls_records import SUITES, TlsRecords

ALICE, BOB = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
TRANSPORTS = {"noise": NoiseTransport, "tls": TlsTransport}
BOTH = pytest.mark.parametrize("kind", TRANSPORTS)


def record_pair(kind, **options):
    if kind == "noise":
        first, second = os.urandom(32), os.urandom(32)
        return NoiseRecords(first, second), NoiseRecords(second, first)
    first, second = os.urandom(48), os.urandom(48)
    suite = options.pop("suite", "TLS_AES_128_GCM_SHA256")
    return TlsRecords(suite, first, second, **options), TlsRecords(suite, second, first, **options)


def seal_all(records, chunks) -> bytes:
    out, sealed, outgoing = memoryview(bytearray(BUFFER_BYTES)), b"", Outgoing(chunks)
    while outgoing.left:
        sealed += out[: records.seal(outgoing, out)]
    return sealed


def open_all(records, pieces) -> bytes:
    out, opened, rest = memoryview(bytearray(BUFFER_BYTES)), b"", b""
    for piece in pieces:
        rest += piece
        consumed, produced = records.open(memoryview(rest), out)
        opened += out[:produced]
        rest = rest[consumed:]
    assert not rest
    return opened


def cut(data: bytes, places) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@BOTH
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 12, 17, 16384, 16385, 65507, 65519, 65520, 100_000]), max_size=6),
    places=st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_what_goes_in_comes_out_however_it_is_cut(kind, sizes, places):
    sender, receiver = record_pair(kind)
    chunks = [random.Random(size).randbytes(size) for size in sizes]
    sealed = seal_all(sender, chunks)
    pieces = [part for piece in cut(sealed, places) for part in cut(piece, range(0, len(piece), 150_000))]
    assert open_all(receiver, pieces) == b"".join(chunks)


@BOTH
def test_a_yamux_frame_of_full_size_is_one_noise_message_and_large_pieces_are_not_copied(kind):
    data = memoryview(os.urandom(200_000))
    outgoing = Outgoing([b"header", data])
    staging = memoryview(bytearray(65536))
    assert outgoing.take(10, staging) == b"header" + data[:4]
    piece = outgoing.take(100_000, staging)
    assert piece.obj is data.obj and piece == data[4:100_004]
    assert outgoing.left == 99_996
    if kind == "noise":
        sealed = seal_all(record_pair(kind)[0], [bytes(12), bytes(65507)])
        assert len(sealed) == 2 + MAX_PLAINTEXT + 16 == 65537


@BOTH
def test_every_flipped_bit_is_found(kind):
    for position in range(8 * 60):
        sender, receiver = record_pair(kind)
        sealed = bytearray(seal_all(sender, [b"0123456789"]))
        if position >= 8 * len(sealed):
            break
        sealed[position // 8] ^= 1 << position % 8
        try:
            consumed, produced = receiver.open(memoryview(sealed), memoryview(bytearray(BUFFER_BYTES)))
        except RecordError:
            continue
        assert (consumed, produced) == (0, 0)  # a length that promises more than there is


@BOTH
def test_a_record_that_is_repeated_left_out_or_swapped_is_found(kind):
    for order in ([0, 0], [1], [1, 0], [0, 2]):
        sender, receiver = record_pair(kind)
        sealed = [seal_all(sender, [bytes([n])]) for n in range(3)]
        with pytest.raises(RecordError):
            open_all(receiver, [sealed[n] for n in order])


def test_lengths_out_of_bounds_are_refused_before_the_rest_arrives():
    out = memoryview(bytearray(BUFFER_BYTES))
    with pytest.raises(RecordError, match="too short"):
        record_pair("noise")[1].open(memoryview(b"\0\x0f"), out)
    for header in (
        b"\x17\3\3\x41\1",
        b"\x17\3\3\0\x10",
        b"\x16\3\3\0\x20",
        b"\x17\3\1\0\x20",
        b"\x15\3\3\0\2",
    ):
        with pytest.raises(RecordError, match="no TLS record"):
            record_pair("tls")[1].open(memoryview(header), out)


# What only TLS has.


def seal_kind(records: TlsRecords, kind: int, body: bytes, padding: int = 0) -> bytes:
    out = memoryview(bytearray(20_000))
    return bytes(out[: records._seal_record(memoryview(body + bytes([kind]) + bytes(padding)), out)])


def test_full_records_are_read_as_others_are():
    ours, theirs = record_pair("tls")
    full = bytes(16384)
    ends = seal_all(ours, [full, full])
    padded = seal_kind(ours, 23, bytes(16000), padding=384)
    handshake = seal_kind(ours, 22, b"\x04" + (16380).to_bytes(3) + bytes(16380))
    assert len(handshake) == len(padded) == len(ends) // 2
    opened = open_all(theirs, [ends + padded + handshake + seal_all(ours, [full, b"last"])])
    assert opened == bytes(16384 * 3 + 16000) + b"last"
    damaged = bytearray(seal_all(ours, [full, full]))
    damaged[-1] ^= 1
    with pytest.raises(RecordError, match="changed on the way"):
        open_all(theirs, [bytes(damaged)])


@pytest.mark.parametrize("suite", SUITES)
def test_keys_change_on_the_way_and_on_request(suite):
    ours, theirs = record_pair("tls", suite=suite, records_per_key=3)
    for _ in range(5):
        data = os.urandom(100_000)
        assert open_all(theirs, [seal_all(ours, [data])]) == data
    request = memoryview(bytearray(100))
    size = theirs._seal_record(memoryview(bytes([24, 0, 0, 1, 1, 22])), request)
    theirs._use_send_secret(theirs._next(theirs._send_secret))
    assert open_all(ours, [bytes(request[:size])]) == b""
    before = ours._send_secret
    assert open_all(theirs, [seal_all(ours, [b"after"])]) == b"after"
    assert ours._send_secret != before
    assert open_all(ours, [seal_all(theirs, [b"back"])]) == b"back"


def test_padding_tickets_and_close_notify_are_understood():
    ours, theirs = record_pair("tls")
    ticket = bytes([4, 0, 0, 5]) + bytes(5)
    sealed = (
        seal_kind(ours, 23, b"padded", 100)
        + seal_kind(ours, 22, ticket[:3])
        + seal_kind(ours, 22, ticket[3:])
    )
    assert open_all(theirs, [sealed, seal_all(ours, [b"data"])]) == b"paddeddata"
    assert open_all(theirs, [ours.goodbye() + b"dropped"]) == b""
    assert theirs.ended


@pytest.mark.parametrize(
    ("kind", "body", "padding"),
    [
        (21, b"\2\x28", 0),  # an alert
        (21, b"\1", 0),
        (22, b"", 0),
        (22, b"\1\0\0\1\0", 0),  # a client hello
        (22, b"\x18\0\0\1\2", 0),  # a key update that asks for neither
        (22, b"\x18\0\0\1\0\4\0\0\0", 0),  # something under the old key after a key update
        (22, b"\4\0\xff\xff", 0),
        (20, b"\1", 0),
        (0, b"\0\0", 50),
        (23, bytes(16385), 0),
    ],
)
def test_what_no_honest_peer_sends_is_refused(kind, body, padding):
    ours, theirs = record_pair("tls")
    with pytest.raises(RecordError):
        open_all(theirs, [seal_kind(ours, kind, body, padding)])


@pytest.mark.parametrize(
    ("kind", "body"), [(23, b""), (22, bytes([4, 0, 0, 0])), (22, bytes([24, 0, 0, 1, 1]))]
)
def test_messages_without_data_are_not_taken_for_ever(kind, body):
    ours, theirs = record_pair("tls")
    with pytest.raises(RecordError, match="without any data"):
        for _ in range(33):
            open_all(theirs, [seal_kind(ours, kind, body)])
            if kind == 22 and body[0] == 24:
                ours._use_send_secret(ours._next(ours._send_secret))


@BOTH
def test_older_cryptography_without_buffers_gives_the_same(kind, monkeypatch):
    class Old:
        def __init__(self, key):
            self.encrypt, self.decrypt = key.encrypt, key.decrypt

    monkeypatch.setattr("moshgrid.p2p.noise_records.seal_into", lambda key: aead.seal_into(Old(key)))
    monkeypatch.setattr("moshgrid.p2p.tls_records.open_into", lambda key: aead.open_into(Old(key)))
    sender, receiver = record_pair(kind)
    assert open_all(receiver, [seal_all(sender, [b"x" * 99])]) == b"x" * 99


# Whole sessions.


async def sessions(kind, ends):
    """A session of Alice, who dialled, and one of Bob."""
    made = {}

    async def dial():
        made[0] = await TRANSPORTS[kind](ALICE).secure_outbound(ends[0], ID.from_base58(BOB.peer_id))

    async def listen():
        made[1] = await TRANSPORTS[kind](BOB).secure_inbound(ends[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        nursery.start_soon(listen)
    return made[0], made[1]


def tcp_ends():
    first, second = socket.socketpair()
    return tuple(
        RawConnection(TrioTCPStream(trio.SocketStream(trio.socket.from_stdlib_socket(one))), dialled)
        for one, dialled in ((first, True), (second, False))
    )


def run(fn):
    async def bounded():
        with trio.fail_after(30):
            await fn()

    trio.run(bounded)


@BOTH
@pytest.mark.parametrize("over", ["socket", "memory"])
def test_megabytes_both_ways_at_once(kind, over):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends() if over == "socket" else pipe())
        data = {alice: os.urandom(5_000_000), bob: os.urandom(5_000_000)}
        heard = {alice: bytearray(), bob: bytearray()}

        async def send(session):
            dice, view, position = random.Random(1), memoryview(data[session]), 0
            while position < len(view):
                sizes = [dice.choice([1, 12, 1000, 65507, 400_000]) for _ in range(dice.randrange(1, 5))]
                chunks = []
                for size in sizes:
                    chunks.append(view[position : position + size])
                    position += size
                await session.send_all(chunks)

        async def receive(session):
            while len(heard[session]) < 5_000_000:
                piece = await session.receive_some()
                assert piece
                heard[session] += piece

        async with trio.open_nursery() as nursery:
            for session in (alice, bob):
                nursery.start_soon(send, session)
                nursery.start_soon(receive, session)
        assert heard[alice] == data[bob] and heard[bob] == data[alice]
        await alice.close()
        assert await bob.receive_some() == b""
        assert await bob.receive_some() == b""
        await bob.close()

    run(scenario)


@BOTH
def test_read_gives_exactly_what_was_asked_and_leaves_the_rest(kind):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends())
        await alice.write(bytes(range(100)))
        assert await bob.read(10) == bytes(range(10))
        assert await bob.read(0) == b""
        assert bytes(await bob.receive_some()) == bytes(range(10, 100))
        await alice.write(b"abc")
        assert await bob.read() == b"abc"
        await alice.write(b"end")
        await alice.close()
        assert await bob.read(10) == b"end"
        with pytest.raises(ConnectionClosedError):
            await bob.read(1)
        with pytest.raises(ChannelBroken, match="closed"):
            await alice.write(b"x")
        await bob.close()
        await bob.close()

    run(scenario)


def test_bytes_read_ahead_are_there_for_the_next_who_asks():
    async def scenario():
        end, other = pipe()
        await other.write(b"negotiation, and a handshake")
        first, part = raw_bytes_of(end), memoryview(bytearray(13))
        await first.wait()
        assert first.read_into(part[:12]) == 12
        rest = memoryview(bytearray(99))
        size = raw_bytes_of(end).read_into(rest)
        assert rest[:size] == b" and a handshake"

    run(scenario)


@BOTH
def test_a_connection_cut_inside_a_record_is_no_clean_end(kind):
    async def scenario():
        ends = pipe()
        alice, bob = await sessions(kind, ends)
        ends[0].outgoing.tamper = lambda data, _: data[:-1]
        await alice.write(b"whole")
        ends[0].outgoing.end()
        with pytest.raises(ChannelBroken, match="cut short"):
            await bob.receive_some()
        with pytest.raises(ChannelBroken, match="cut short"):
            await bob.write(b"x")

    run(scenario)


def test_tls_cut_between_records_is_no_clean_end():
    async def scenario():
        ends = pipe()
        alice, bob = await sessions("tls", ends)
        await alice.write(b"whole")
        ends[0].outgoing.end()
        assert bytes(await bob.receive_some()) == b"whole"
        with pytest.raises(ChannelBroken, match="cut short"):
            await bob.receive_some()

    run(scenario)


@BOTH
def test_a_flipped_bit_ends_the_connection(kind):
    async def scenario():
        ends = pipe()
        alice, bob = await sessions(kind, ends)
        ends[0].outgoing.tamper = lambda data, _: data[:-1] + bytes([data[-1] ^ 1])
        await alice.write(b"something")
        with pytest.raises(ChannelBroken, match="changed on the way"):
            await bob.receive_some()
        assert ends[1].outgoing.ended
        with pytest.raises((ChannelBroken, ConnectionClosedError)):
            await alice.read(1)

    run(scenario)


@BOTH
def test_cancelling_a_sender_leaves_the_channel_whole(kind):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends())
        dice = random.Random(3)
        data = bytes(2_000_000)
        sent = [0]

        async def send_and_give_up():
            for _ in range(40):
                with trio.move_on_after(dice.random() * 0.002):
                    await trio.lowlevel.checkpoint()
                    await alice.send_all([b"B", data])
                    sent[0] += 1
            await alice.send_all([b"E"])

        async def receive():
            heard = bytearray()
            while not heard.endswith(b"E"):
                heard += await bob.receive_some()
            assert (len(heard) - 1) % (len(data) + 1) == 0
            assert heard == (b"B" + data) * (len(heard) // len(data)) + b"E"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_give_up)
            nursery.start_soon(receive)

    run(scenario)


@BOTH
def test_cancelling_a_receiver_loses_nothing(kind):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends())
        data = os.urandom(3_000_000)
        heard = bytearray()

        async def receive():
            dice = random.Random(4)
            while len(heard) < len(data):
                with trio.move_on_after(dice.random() * 0.0005):
                    heard.extend(await bob.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.send_all, [data])
            nursery.start_soon(receive)
        assert heard == data

    run(scenario)


@BOTH
def test_a_peer_that_takes_nothing_is_given_up(kind):
    async def scenario():
        alice, _ = await sessions(kind, tcp_ends())
        clock = trio.current_time()
        with pytest.raises(ChannelBroken, match="took no bytes for 30 s"):
            await alice.send_all([bytes(50_000_000)])
        assert 30 <= trio.current_time() - clock < 31
        with pytest.raises(ChannelBroken):
            await alice.receive_some()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0.05))


@BOTH
@pytest.mark.parametrize("over", ["socket", "pipe"])
def test_what_is_not_sent_at_once_is_finished_later_and_whole_even_when_cancelled(kind, over):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends() if over == "socket" else pipe())
        data, heard = os.urandom(20_000_000), bytearray()
        assert alice.send_now([b"little"]) is (over == "socket")
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                while len(heard) < len(data) + 6:
                    heard.extend(await bob.receive_some())

            nursery.start_soon(receive)
            if over == "pipe":
                await alice.finish_sending()
            assert not alice.send_now([memoryview(data)[:7], memoryview(data)[7:]])
            with trio.CancelScope() as scope:
                scope.cancel()
                await alice.finish_sending()
        assert heard == b"little" + data
        await alice.close()

    run(scenario)


@BOTH
def test_sending_at_once_fails_when_the_peer_is_gone_and_keeps_no_buffer(kind):
    async def scenario():
        alice, bob = await sessions(kind, tcp_ends())
        await bob._raw.close()
        with pytest.raises(ChannelBroken):
            while alice.send_now([bytes(100_000)]):
                await trio.lowlevel.checkpoint()
            await alice.finish_sending()
        assert alice._sealing is None and alice._outgoing is None
        with pytest.raises(ChannelBroken):
            alice.send_now([b"more"])

    run(scenario)


@BOTH
def test_closing_wakes_a_sender_and_a_receiver(kind):
    async def scenario():
        alice, _ = await sessions(kind, tcp_ends())
        async with trio.open_nursery() as nursery:

            async def fails(fn, *args):
                with pytest.raises(ChannelBroken):
                    await fn(*args)

            nursery.start_soon(fails, alice.send_all, [bytes(50_000_000)])
            nursery.start_soon(fails, alice.receive_some)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await alice.close()

    run(scenario)


@BOTH
def test_an_idle_connection_costs_little_memory_even_after_heavy_use(kind):
    count = 30

    async def scenario():
        async def used():
            alice, bob = await sessions(kind, tcp_ends())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.send_all, [bytes(1_000_000)])
                left = 1_000_000
                while left:
                    left -= len(await bob.receive_some())
            with trio.move_on_after(0.001):
                await bob.receive_some()  # as a reader that waits
            return alice, bob

        keep = [await used()]
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            keep += [await used() for _ in range(count)]
            gc.collect()
            cost = (tracemalloc.get_traced_memory()[0] - before) / (2 * count)
        finally:
            tracemalloc.stop()
        assert cost < 16 * 1024
        print(f"{kind}: {cost:.0f} bytes for an idle end")

    run(scenario)

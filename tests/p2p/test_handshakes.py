"""Both handshakes over a wire in memory: who is let in, and that every changed byte keeps everybody out."""

import random
import struct

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from wire_pipe import PipeEnd, pipe

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_noise import NoiseTransport
from moshgrid.p2p.libp2p_securing import HandshakeRefused, PeerMismatch
from moshgrid.p2p.libp2p_tls import TlsTransport

ALICE, BOB, EVE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
TRANSPORTS = {"noise": NoiseTransport, "tls": TlsTransport}
BOTH = pytest.mark.parametrize("kind", TRANSPORTS)


def run(fn, *args):
    return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


def peer(identity: Identity) -> ID:
    return ID.from_base58(identity.peer_id)


async def talk(kind, ends, expected=BOB, dialler=None, listener=None):
    """Shakes hands and says two words each way; what came of it on either side."""
    dialler = dialler or TRANSPORTS[kind](ALICE)
    listener = listener or TRANSPORTS[kind](BOB)
    outcomes = {}
    for end in ends:
        end.secured = False

    async def one(name, end, secure):
        try:
            session = await secure()
            end.secured = True
            for word in (b"open", b"word"):  # a listener hears the first before the dialler can object
                await session.write(word)
                heard = await session.read(4)
            outcomes[name] = (session.get_remote_peer().to_base58(), heard)
            await trio.testing.wait_all_tasks_blocked()
            await session.close()
        except (HandshakeRefused, IOException) as error:
            outcomes[name] = error

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                one, "dialler", ends[0], lambda: dialler.secure_outbound(ends[0], peer(expected))
            )
            nursery.start_soon(one, "listener", ends[1], lambda: listener.secure_inbound(ends[1]))
    return outcomes["dialler"], outcomes["listener"]


@BOTH
def test_each_side_learns_who_the_other_is(kind):
    assert run(talk, kind, pipe()) == ((BOB.peer_id, b"word"), (ALICE.peer_id, b"word"))


@BOTH
def test_another_peer_than_the_one_called_is_refused(kind):
    dialler, listener = run(talk, kind, pipe(), EVE)
    assert isinstance(dialler, PeerMismatch)
    assert BOB.peer_id in str(dialler) and EVE.peer_id in str(dialler)
    assert isinstance(listener, HandshakeRefused | IOException)


@BOTH
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_changed_byte_of_a_handshake_is_refused(kind, step):
    # Every offset in both directions (every fourth in the short form), each time changed in another way.
    async def scenario():
        dialler, listener = TRANSPORTS[kind](ALICE), TRANSPORTS[kind](BOB)
        ends = pipe()
        lengths = {}

        async def measure(side, end, secure):
            await secure
            lengths[side] = end.outgoing.total

        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure, 0, ends[0], dialler.secure_outbound(ends[0], peer(BOB)))
            nursery.start_soon(measure, 1, ends[1], listener.secure_inbound(ends[1]))
        dice = random.Random(7)
        count = 0
        for side in (0, 1):
            for offset in range(0, lengths[side], step):
                change = dice.randrange(1, 256)
                ends, touched = pipe(), []

                def tamper(data, start, end=ends[side], offset=offset, change=change, touched=touched):
                    at = offset - start
                    if end.secured or not 0 <= at < len(data):
                        return data
                    touched.append(at)
                    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]

                ends[side].outgoing.tamper = tamper
                start = trio.current_time()
                outcomes = await talk(kind, ends, dialler=dialler, listener=listener)
                assert trio.current_time() - start <= 25, (side, offset, change)
                if touched:  # certificates and signatures differ in length by a byte or two
                    count += 1
                    for outcome in outcomes:
                        assert isinstance(outcome, Exception), (side, offset, change, outcome)
        assert count > sum(lengths.values()) / step - 20
        return count

    assert run(scenario) > {"noise": 380, "tls": 1500}[kind] / step


@BOTH
@pytest.mark.parametrize("side", [0, 1])
def test_a_handshake_cut_off_anywhere_is_refused(kind, side):
    async def scenario():
        dialler, listener = TRANSPORTS[kind](ALICE), TRANSPORTS[kind](BOB)
        for cut in [*range(60), *range(60, 3000, 61)]:
            ends, too_late = pipe(), []

            def tamper(data, start, end=ends[side], cut=cut, too_late=too_late):
                if start + len(data) <= cut or end.outgoing.ended:
                    return data
                too_late.append(end.secured)
                end.outgoing.end()
                return data[: cut - start]

            ends[side].outgoing.tamper = tamper
            outcomes = await talk(kind, ends, dialler=dialler, listener=listener)
            if too_late != [False]:
                assert cut > 150
                return
            assert all(isinstance(outcome, Exception) for outcome in outcomes), (cut, outcomes)

    run(scenario)


@BOTH
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" * 20,
        bytes(70000),
        b"\xff" * 70000,
        struct.pack(">H", 4097) + bytes(5000),
        b"\x16\x03\x01\x41\x01" + bytes(20000),
        b"\x16\x03\x01\x00\x00" * 100,
        b"\x14\x03\x03\x00\x01\x01" * 20000,
    ],
)
@pytest.mark.parametrize("inbound", [True, False])
def test_garbage_is_refused_without_reading_on(kind, garbage, inbound):
    async def scenario():
        ours, theirs = reversed(pipe()) if inbound else pipe()
        theirs.outgoing.put(garbage)
        transport = TRANSPORTS[kind](ALICE)
        start = trio.current_time()
        with pytest.raises(HandshakeRefused):
            await (transport.secure_inbound(ours) if inbound else transport.secure_outbound(ours, peer(BOB)))
        assert trio.current_time() - start <= 10.1
        assert ours.outgoing.ended

    run(scenario)


@BOTH
def test_silence_is_given_up_after_ten_seconds(kind):
    async def scenario():
        _, ours = pipe()
        start = trio.current_time()
        with pytest.raises(HandshakeRefused, match="no handshake within 10 s"):
            await TRANSPORTS[kind](BOB).secure_inbound(ours)
        assert 10 <= trio.current_time() - start < 10.1

    run(scenario)


@BOTH
def test_one_byte_a_second_is_given_up_too(kind):
    async def scenario():
        theirs, ours = pipe()

        async def drip():
            while not theirs.outgoing.ended:
                theirs.outgoing.put(b"\x16\x03\x01\x10\x10"[trio.current_time().__int__() % 5 :][:1])
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with pytest.raises(HandshakeRefused):
                await TRANSPORTS[kind](BOB).secure_inbound(ours)
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_noise_payload_with_a_foreign_signature_is_refused():
    async def scenario():
        liar = NoiseTransport(EVE)
        liar._identity = Identity.from_seed(bytes([3]) * 32)
        liar._identity.public_key = BOB.public_key  # claims to be Bob, signs as Eve
        return await talk("noise", pipe(), listener=liar)

    dialler, _ = run(scenario)
    assert isinstance(dialler, HandshakeRefused) and "signature" in str(dialler)


def test_a_noise_identity_key_of_small_order_is_refused():
    # OpenSSL accepts such a key for any message; libsodium's rules do not.
    async def scenario():
        liar = NoiseTransport(EVE)

        class Anybody:
            public_key = bytes([1]) + bytes(31)

            def sign(self, message):
                return bytes([1]) + bytes(63)

        liar._identity = Anybody()
        return await talk("noise", pipe(), listener=liar)

    dialler, _ = run(scenario)
    assert isinstance(dialler, HandshakeRefused) and "signature" in str(dialler)


def test_a_pipe_end_is_what_the_sessions_take_for_a_raw_connection():
    assert PipeEnd.__abstractmethods__ == frozenset()

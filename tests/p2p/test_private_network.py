"""Private networks: what a key may be, the cipher, and that nobody without the key gets in."""

import os

import pytest
import trio
from echoing import ECHO, echo
from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox
from wire_pipe import pipe

from moshgrid.p2p import Node
from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.errors import ConfigurationError, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_layered_connection import LayeredConnection
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.libp2p_private_network import PrivateBytes
from moshgrid.p2p.libp2p_raw_bytes import raw_bytes_of
from moshgrid.p2p.private_network import format_psk, load_psk
from moshgrid.p2p.xsalsa20 import xsalsa20

PSK, OTHER = bytes(range(32)), bytes(32)


# Keys.


def test_a_key_is_bytes_or_text_or_a_file(tmp_path):
    text = format_psk(PSK)
    assert text == "/key/swarm/psk/1.0.0/\n/base16/\n" + PSK.hex() + "\n"
    file = tmp_path / "swarm.key"
    file.write_text(text)
    for given_ in (PSK, text, text.replace("\n", "\r\n"), text.strip(), file, str(file)):
        assert load_psk(given_) == PSK


@pytest.mark.parametrize(
    "given_",
    [
        b"",
        bytes(31),
        12,
        None,
        PSK.hex(),
        "",
        "no-such-file",
        "a\0b",
        "/key/swarm/psk/1.0.0/\n/base16/\n" + PSK.hex()[:-2],
        "/key/swarm/psk/1.0.0/\n/base16/\n" + PSK.hex()[:-1] + "g",
        "/key/swarm/psk/1.0.0/\n/bin/\n" + PSK.hex(),
        "/key/swarm/psk/1.0.0/\n" + PSK.hex(),
        "/key/swarm/psk/2.0.0/\n/base16/\n" + PSK.hex(),
        os.devnull,
        "/dev/zero",
    ],
)
def test_any_other_key_is_refused_with_advice_and_never_quoted(given_):
    with pytest.raises(ConfigurationError) as caught:
        load_psk(given_)
    message = str(caught.value)
    assert "psk= takes 32 bytes, the text of a key file, or the path of one" in message
    assert PSK.hex()[:20] not in message


def test_a_node_does_not_show_its_key():
    with Node(psk=PSK, listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        assert PSK.hex() not in repr(node) + node.link + repr(node._core.config)
        assert repr(PSK) not in repr(node._core.config)


# The cipher.


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
    st.binary(max_size=2000),
    st.data(),
)
def test_xsalsa20_is_libsodiums_and_goes_on_where_it_stopped(key, nonce, data, choose):
    cipher = xsalsa20(key, nonce)
    cipher.encrypt(bytes(32))  # libsodium's boxes keep the first block's half for their tag
    place = choose.draw(st.integers(0, len(data)))
    expected = SecretBox(key).encrypt(data, nonce).ciphertext[16:]
    assert cipher.encrypt(data[:place]) + cipher.encrypt(data[place:]) == expected


def test_xsalsa20_gives_the_published_key_stream():
    # "Cryptography in NaCl", section 8: firstkey, nonce, and the first bytes of their stream.
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    assert xsalsa20(key, nonce).encrypt(bytes(32)).hex() == (
        "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"
    )


def test_the_cipher_needs_its_sizes():
    with pytest.raises(ValueError, match="32 bytes"):
        xsalsa20(bytes(31), bytes(24))


# The wire.


@pytest.mark.parametrize("step", [1, 5, 24, 1000])
def test_each_direction_begins_with_a_nonce_of_its_own(step):
    async def scenario():
        ends = pipe()
        alice, bob = (LayeredConnection(end, PrivateBytes(raw_bytes_of(end), PSK)) for end in ends)
        await alice.write(b"hello")
        first = bytes(ends[0].outgoing.buffer)
        assert len(first) == 24 + 5
        assert xsalsa20(PSK, first[:24]).encrypt(first[24:]) == b"hello"
        heard = b""
        while len(heard) < 5:
            heard += await bob.read(step)
        assert heard == b"hello"
        assert len(ends[1].outgoing.buffer) == 24  # Bob's nonce, because he read
        await bob.write(b"back" * 100)
        heard = b""
        while len(heard) < 400:
            heard += await alice.read(step)
        assert heard == b"back" * 100
        assert bytes(ends[1].outgoing.buffer) == b""
        await alice.close()
        assert await bob.read(10) == b""

    trio.run(scenario)


@pytest.mark.parametrize("their_psk", [None, OTHER], ids=["none", "another"])
def test_peers_without_the_key_do_not_get_in(their_psk):
    limits = ConnectionLimits(handshake_seconds=0.5)

    async def scenario():
        with trio.fail_after(60):
            async with (
                open_libp2p_network(Identity.generate(), psk=PSK, limits=limits) as private,
                open_libp2p_network(Identity.generate(), psk=PSK) as member,
                open_libp2p_network(Identity.generate(), psk=their_psk, limits=limits) as stranger,
            ):
                private.serve(ECHO, echo)
                for caller, called in ((stranger, private), (private, stranger)):
                    with pytest.raises(Unreachable):
                        await caller.dial(called.addrs[0])
                assert not stranger.connected() and not private.connected()
                await member.dial(private.addrs[0])
                stream = await member.open_stream(private.peer_id, ECHO)
                data, heard = os.urandom(1_000_000), bytearray()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, data)
                    while len(heard) < len(data):
                        heard += await stream.receive()
                assert heard == data

    trio.run(scenario)


def test_what_a_stranger_hears_is_noise():
    limits = ConnectionLimits(handshake_seconds=0.5)

    async def scenario():
        async with open_libp2p_network(Identity.generate(), psk=PSK, limits=limits) as private:
            port = int(private.addrs[0].split("/")[4])
            stranger = await trio.open_tcp_stream("127.0.0.1", port)
            await stranger.send_all(b"\x13/multistream/1.0.0\n")
            heard = b""
            with trio.move_on_after(15):
                try:
                    while piece := await stranger.receive_some():
                        heard += piece
                except trio.BrokenResourceError:
                    pass
            assert b"multistream" not in heard and b"/tls" not in heard

    trio.run(scenario)

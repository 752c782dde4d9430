"""Blobs by hash: served in pieces, checked against their names, bounded."""

import random

import pytest
from blake3 import blake3

from moshgrid.p2p.blobs import _MAX_BLOBS, BLOBS, MAX_BLOB_BYTES, AskBlob, BlobPiece, Blobs
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch, run_virtual


def with_two_hosts(body):
    async def main():
        async with MemorySwitch(seed=1) as switch:
            one, two = (Identity.from_seed(bytes([i]) * 32) for i in (1, 2))
            first = switch.network(one)
            async with open_host(first, one) as a:
                second = switch.network(two)
                async with open_host(second, two, bootstrap=tuple(first.addrs)) as b:
                    second.learn_addrs(a.peer_id, tuple(first.addrs))
                    await body(a, b)

    run_virtual(main)


@pytest.mark.parametrize("size", [1, 1000, 64 * 1024, 64 * 1024 + 1, 200_000, MAX_BLOB_BYTES])
def test_what_one_keeps_another_fetches(size):
    data = random.Random(size).randbytes(size)

    async def body(a, b):
        name = Blobs.of(a).keep(data)
        assert name == blake3(data).digest()
        assert await Blobs.of(b).fetch(name, a.peer_id, size) == data
        if size > 1:
            with pytest.raises(RemoteProtocolError, match=f"{size - 1} are allowed"):
                await Blobs.of(b).fetch(name, a.peer_id, size - 1)
        Blobs.of(a).drop(name)
        with pytest.raises(RemoteProtocolError, match="does not have the blob"):
            await Blobs.of(b).fetch(name, a.peer_id, size)

    with_two_hosts(body)


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (BlobPiece(10, b"x" * 10), "other bytes"),
        (BlobPiece(10, b"x" * 9), "does not fit"),
        (BlobPiece(10, b""), "does not fit"),
        (BlobPiece(10, b"x" * 11), "does not fit"),
        (BlobPiece(MAX_BLOB_BYTES, b"x"), "are allowed"),
    ],
)
def test_a_liar_is_found_out(piece, words):
    async def body(a, b):
        async def lie(_, query: AskBlob) -> BlobPiece:
            return piece

        a.requests.serve(BLOBS, lie)
        with pytest.raises(RemoteProtocolError, match=words):
            await Blobs.of(b).fetch(bytes(32), a.peer_id, 100)

    with_two_hosts(body)


def test_the_oldest_blobs_go_and_sizes_are_bounded():
    async def body(a, b):
        blobs = Blobs.of(a)
        assert blobs is Blobs.of(a)
        names = [blobs.keep(bytes([i, 1])) for i in range(_MAX_BLOBS + 1)]
        with pytest.raises(RemoteProtocolError, match="does not have"):
            await Blobs.of(b).fetch(names[0], a.peer_id, 10)
        assert await Blobs.of(b).fetch(names[-1], a.peer_id, 10) == bytes([_MAX_BLOBS, 1])
        for data in (b"", bytes(MAX_BLOB_BYTES + 1)):
            with pytest.raises(ValueError, match="1048576 bytes"):
                blobs.keep(data)

    with_two_hosts(body)

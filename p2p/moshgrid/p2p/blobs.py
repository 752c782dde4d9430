"""Blobs: bytes named by their hash, too large for a record, served in pieces to whoever asks.

``/moshgrid/blob/1``. A blob is kept for as long as whoever put it there wants; what is fetched is checked
against its name, so it does not matter from whom it came.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3

from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.requests import Service

__all__ = ["BLOBS", "MAX_BLOB_BYTES", "AskBlob", "BlobPiece", "Blobs"]

MAX_BLOB_BYTES = 1024 * 1024
_PIECE = 64 * 1024
_MAX_BLOBS = 64
_LAYER = "blobs"


class AskBlob(msgspec.Struct, frozen=True):
    """Asks for a blob from ``offset`` on. ``digest`` is the BLAKE3 of the whole."""

    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    offset: Annotated[int, msgspec.Meta(ge=0, lt=MAX_BLOB_BYTES)] = 0


class BlobPiece(msgspec.Struct, frozen=True):
    """At most 64 KiB of a blob of ``size`` bytes; ``size`` is 0 when the answerer has no such blob."""

    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOB_BYTES)]
    data: Annotated[bytes, msgspec.Meta(max_length=_PIECE)]


BLOBS: Service[AskBlob, BlobPiece] = Service(
    "/moshgrid/blob/1", AskBlob, BlobPiece, max_query=256, max_answer=_PIECE + 256, concurrency=8, rate=200.0
)


class Blobs:
    """The blobs of a host; get it with ``Blobs.of``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kept: dict[bytes, bytes] = {}
        host.requests.serve(BLOBS, self._answer)

    @classmethod
    def of(cls, host: Host) -> Blobs:
        """The blobs of ``host``, served from the first call on."""
        blobs = host.layers.get(_LAYER)
        if blobs is None:
            blobs = host.layers[_LAYER] = cls(host)
        assert isinstance(blobs, Blobs)
        return blobs

    def keep(self, data: bytes) -> bytes:
        """Serves ``data`` (1 byte to 1 MiB) from now on; returns its name, 32 bytes.

        Of more than 64 blobs the oldest go. Raises ValueError for what is too large or empty.
        """
        if not 0 < len(data) <= MAX_BLOB_BYTES:
            raise ValueError(f"a blob has 1 to {MAX_BLOB_BYTES} bytes, not {len(data)}")
        digest = blake3(data).digest()
        self._kept.pop(digest, None)
        self._kept[digest] = data
        while len(self._kept) > _MAX_BLOBS:
            del self._kept[next(iter(self._kept))]
        return digest

    def drop(self, digest: bytes) -> None:
        """Serves a blob no longer."""
        self._kept.pop(digest, None)

    async def fetch(self, digest: bytes, source: PeerId, most: int, timeout: float = 10.0) -> bytes:
        """The bytes of that name, from a peer that says it has them; kept ones are not asked for.

        Raises Unreachable, or RemoteProtocolError when the peer has none, more than ``most`` bytes of
        it, or others than named. ``timeout`` is for each piece, in seconds.
        """
        if digest in self._kept:
            return self._kept[digest]
        data = bytearray()
        size = None
        while size is None or len(data) < size:
            piece = await self._host.requests.ask(source, BLOBS, AskBlob(digest, len(data)), timeout)
            size = piece.size if size is None else size
            if size == 0 or piece.size == 0:
                raise RemoteProtocolError(source, f"does not have the blob {digest.hex()[:12]}")
            if size > most:
                raise RemoteProtocolError(source, f"has a blob of {size} bytes where {most} are allowed")
            left = size - len(data)
            if piece.size != size or len(piece.data) != min(left, _PIECE):
                raise RemoteProtocolError(source, "sent a piece of a blob that does not fit the others")
            data += piece.data
        if blake3(data).digest() != digest:
            raise RemoteProtocolError(source, "sent other bytes than the blob's name says")
        return bytes(data)

    def _answer(self, _: PeerId, query: AskBlob) -> BlobPiece:
        data = self._kept.get(query.digest, b"")
        return BlobPiece(len(data), data[query.offset : query.offset + _PIECE])

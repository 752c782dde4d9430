"""A private network's cipher around raw bytes (specs/pnet), before anything else is said.

Each side sends a nonce of 24 bytes and from then on XSalsa20 under the shared key. Whoever has no key, or
another one, reads noise and sends noise: the negotiation that follows fails, and says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from moshgrid.p2p.libp2p_raw_bytes import RawBytes
from moshgrid.p2p.xsalsa20 import NONCE_BYTES, xsalsa20

__all__ = ["PrivateBytes"]


class PrivateBytes:
    """``RawBytes`` through the cipher; nonces travel with the first bytes in each direction."""

    def __init__(self, raw: RawBytes, psk: bytes) -> None:
        self._raw = raw
        self._psk = psk
        self._nonce = os.urandom(NONCE_BYTES)
        self._encrypt = xsalsa20(psk, self._nonce).encrypt
        self._their_nonce = b""
        self._decrypt: Callable[..., bytes | None] | None = None

    async def wait(self) -> None:
        """Waits for the peer, having sent our nonce: it may be waiting for that."""
        if self._nonce:
            await self.send(b"")
        await self._raw.wait()

    def read_into(self, buffer: memoryview) -> int | None:
        """Reads and decrypts in place."""
        if self._decrypt is None:
            return self._read_nonce()
        size = self._raw.read_into(buffer)
        if size:
            self._decrypt(buffer[:size], output=buffer[:size])
        return size

    def _read_nonce(self) -> int | None:
        part = memoryview(bytearray(NONCE_BYTES - len(self._their_nonce)))
        size = self._raw.read_into(part)
        if not size:
            return size
        self._their_nonce += part[:size]
        if len(self._their_nonce) == NONCE_BYTES:
            self._decrypt = xsalsa20(self._psk, self._their_nonce).encrypt
        return None

    async def send(self, data: bytes | memoryview) -> None:
        """Encrypts and sends all of ``data``."""
        nonce, self._nonce = self._nonce, b""
        await self._raw.send(nonce + self._encrypt(data))

    async def close(self) -> None:
        """Closes the connection."""
        await self._raw.close()

"""XSalsa20, the stream cipher of libp2p's private networks: Salsa20 with a nonce of 24 bytes.

Salsa20 itself is pycryptodome's, which libp2p brings; only the key derivation (HSalsa20, once for each
direction of a connection) is here. D. J. Bernstein, "Extending the Salsa20 nonce".
"""

from __future__ import annotations

import struct

from Crypto.Cipher import Salsa20
from Crypto.Cipher.Salsa20 import Salsa20Cipher

__all__ = ["KEY_BYTES", "NONCE_BYTES", "xsalsa20"]

KEY_BYTES = 32
NONCE_BYTES = 24

_CONSTANT = struct.unpack("<4I", b"expand 32-byte k")
_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))


def xsalsa20(key: bytes, nonce: bytes) -> Salsa20Cipher:
    """A cipher whose ``encrypt`` goes on where the last call ended."""
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError("XSalsa20 takes a key of 32 bytes and a nonce of 24")
    return Salsa20.new(key=_hsalsa20(key, nonce[:16]), nonce=nonce[16:])


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    k, n, c = struct.unpack("<8I", key), struct.unpack("<4I", nonce), _CONSTANT
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for line in (*_COLUMNS, *_ROWS):
            _quarter_round(x, *line)
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


def _quarter_round(x: list[int], a: int, b: int, c: int, d: int) -> None:
    x[b] ^= _rotate(x[a] + x[d], 7)
    x[c] ^= _rotate(x[b] + x[a], 9)
    x[d] ^= _rotate(x[c] + x[b], 13)
    x[a] ^= _rotate(x[d] + x[c], 18)


def _rotate(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF

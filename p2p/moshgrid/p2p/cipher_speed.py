"""Whether this machine is faster with AES-GCM or with ChaCha20-Poly1305: tried once, in a millisecond."""

from __future__ import annotations

import time
from functools import cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

__all__ = ["aes_is_faster"]

_ROUNDS = 8
_PIECE = bytes(16384)


@cache
def aes_is_faster() -> bool:
    """True where the processor has AES instructions: there AES is two to five times as fast."""
    # The best of several: the measure is how fast it can go, not who else was running.
    return _best_time(AESGCM(bytes(16))) < _best_time(ChaCha20Poly1305(bytes(32)))


def _best_time(key: AESGCM | ChaCha20Poly1305) -> float:
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        key.encrypt(bytes(12), _PIECE, None)
        times.append(time.perf_counter() - start)
    return min(times)

"""Encrypting from one buffer into another without a copy, on every version of cryptography we support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

__all__ = ["open_into", "seal_into"]

Aead = AESGCM | ChaCha20Poly1305
Into = Callable[[bytes, Any, Any, memoryview], object]
"""Called with nonce, data, associated data, and the buffer for exactly the result."""


def seal_into(key: Aead) -> Into:
    """``key``'s encryption; the result is 16 bytes longer than the data."""
    if (method := getattr(key, "encrypt_into", None)) is not None:  # newer versions only
        return method  # type: ignore[no-any-return]

    def copying(nonce: bytes, data: Any, associated: Any, out: memoryview) -> None:
        out[:] = key.encrypt(nonce, data, associated)

    return copying


def open_into(key: Aead) -> Into:
    """``key``'s decryption; raises InvalidTag."""
    if (method := getattr(key, "decrypt_into", None)) is not None:
        return method  # type: ignore[no-any-return]

    def copying(nonce: bytes, data: Any, associated: Any, out: memoryview) -> None:
        out[:] = key.decrypt(nonce, data, associated)

    return copying

"""Identity: an Ed25519 key pair and the libp2p peer id that follows from its public half.

Peer ids are the libp2p ones (specs/peer-ids): base58 of the identity multihash over the
protobuf-encoded public key, ``12D3KooW…``. Signatures are checked with libsodium's rules, which
refuse small-order and non-canonical keys; OpenSSL alone accepts them.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NewType

import base58
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from moshgrid.p2p.errors import ConfigurationError

__all__ = [
    "Identity",
    "PeerId",
    "peer_id_from_bytes",
    "peer_id_from_public_key",
    "peer_id_to_bytes",
    "public_key_of",
    "verify",
]

PeerId = NewType("PeerId", str)
"""A libp2p peer id in its base58 text form."""

_KEY_PREFIX = bytes.fromhex("08011220")  # crypto.pb PublicKey{type: Ed25519, data: 32 bytes}
_ID_PREFIX = b"\x00\x24" + _KEY_PREFIX  # identity multihash, 36 bytes
PEER_ID_BYTES = 38


@lru_cache(maxsize=16_384)
def peer_id_from_public_key(public_key: bytes) -> PeerId:
    """The peer id of a raw 32-byte Ed25519 public key, remembered because base58 is slow."""
    if len(public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_ID_PREFIX + public_key).decode())


def peer_id_to_bytes(peer: PeerId) -> bytes:
    """The 38 binary bytes of a peer id; ValueError when it is not an Ed25519 peer id."""
    if len(peer) > 64:
        raise ValueError(f"{peer[:16]}… is not a peer id")
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        raise ValueError(f"{peer} is not a peer id: not base58") from None
    if len(raw) != PEER_ID_BYTES or not raw.startswith(_ID_PREFIX):
        raise ValueError(f"{peer} is not the peer id of an Ed25519 key")
    return raw


def peer_id_from_bytes(raw: bytes) -> PeerId:
    """The peer id of its 38 binary bytes; ValueError when they are anything else."""
    if len(raw) != PEER_ID_BYTES or not raw.startswith(_ID_PREFIX):
        raise ValueError("not the binary peer id of an Ed25519 key")
    return PeerId(base58.b58encode(raw).decode())


def public_key_of(peer: PeerId) -> bytes:
    """The raw Ed25519 public key that a peer id holds."""
    return peer_id_to_bytes(peer)[len(_ID_PREFIX) :]


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """True when ``signature`` (64 bytes) over ``message`` was made by ``public_key`` (32 bytes)."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


class Identity:
    """A private key; what this peer is known by and signs with."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key = private_key.public_key().public_bytes_raw()
        self.peer_id = peer_id_from_public_key(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        """A new random identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity whose private key is the 32-byte ``seed``; for tests and simulations."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Identity:
        """Reads the key at ``path``, or makes one and writes it with mode 600.

        Raises ConfigurationError when a file is there but holds no Ed25519 key; it is never
        overwritten.
        """
        file = Path(path).expanduser()
        try:
            pem = file.read_bytes()
        except FileNotFoundError:
            return cls._create(file)
        except OSError as error:
            raise ConfigurationError(f"cannot read the identity file {file}: {error.strerror}") from error
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{file} is not an identity file (PEM with an Ed25519 key). It was left as it is; "
                "give another path or move it away."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"{file} holds a key that is not Ed25519; give another path.")
        return cls(key)

    @classmethod
    def _create(cls, file: Path) -> Identity:
        identity = cls.generate()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Written aside (mkstemp: mode 600) and then linked: of several processes that start at once
            # one wins, and none reads a key that is half written.
            handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
            try:
                with os.fdopen(handle, "wb") as out:
                    out.write(identity.to_pem())
                _put_in_place(draft, file)
            finally:
                os.unlink(draft)
        except FileExistsError:
            return cls.load_or_create(file)
        except OSError as error:
            raise ConfigurationError(f"cannot write the identity file {file}: {error.strerror}") from error
        return identity

    def to_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def private_bytes(self) -> bytes:
        """The raw 32-byte private key."""
        return self._private_key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def _put_in_place(draft: str, file: Path) -> None:
    """Gives ``draft`` the name ``file``; FileExistsError when that is taken."""
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: no worse than writing it in place
        with open(file, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
            out.write(Path(draft).read_bytes())

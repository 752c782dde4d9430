"""Vouching: whose word about a state counts for a newcomer, and how much. Pure.

In a run with an authority only it counts and those it admitted, by a token that it signed: strangers may
be as many as they like. In an open run identities cost nothing but addresses cost something, so each
address block (/24, for IPv6 /48) has one vote that its peers share.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec

from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import ConfigurationError, RecordRejected
from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_public_key, peer_id_to_bytes

__all__ = ["MAX_ADMISSION_BYTES", "Trust", "admit", "authority_of", "is_admitted"]

MAX_ADMISSION_BYTES = 512
_DOMAIN = "moshgrid-admission"
_PAYLOAD_TYPE = b"/moshgrid/admission/1"


class _Admission(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    network: str
    peer: str
    expires_ms: int


_DECODER = msgspec.msgpack.Decoder(_Admission)


def authority_of(text: str) -> PeerId:
    """The peer id of an authority's key as a link spells it: a peer id, or the Ed25519 key in hex or base64.

    Raises ConfigurationError.
    """
    try:
        if text.startswith("12D3"):
            peer_id_to_bytes(PeerId(text))
            return PeerId(text)
        if len(text) == 64:
            return peer_id_from_public_key(bytes.fromhex(text))
        return peer_id_from_public_key(urlsafe_b64decode(text.rstrip("=") + "="))
    except (ValueError, binascii.Error):
        raise ConfigurationError(
            f"authority {text[:80]!r} is not usable: give the peer id of the authority (12D3KooW…), "
            "or its Ed25519 public key as 64 hex digits or in base64"
        ) from None


def admit(authority: Identity, peer: PeerId, network: str, expires_ms: int) -> bytes:
    """A token by which ``authority`` admits ``peer`` to ``network`` until ``expires_ms`` (unix time)."""
    payload = msgspec.msgpack.encode(_Admission(network, peer, expires_ms))
    return seal(authority, _DOMAIN, _PAYLOAD_TYPE, payload)


def is_admitted(token: bytes, peer: PeerId, network: str, authority: PeerId, now_ms: int) -> bool:
    """True when ``authority`` signed that ``peer`` may take part in ``network``, and that holds still."""
    if not token:
        return False
    try:
        envelope = open_envelope(token, _DOMAIN, _PAYLOAD_TYPE, MAX_ADMISSION_BYTES)
        admission = decode(_DECODER, envelope.payload)
    except (RecordRejected, Unreadable):
        return False
    return (
        envelope.author == authority
        and (admission.network, admission.peer) == (network, peer)
        and now_ms < admission.expires_ms
    )


@dataclass(frozen=True, slots=True)
class Trust:
    """How much the word of each peer counts. ``of`` gives those that count, and the sum is the electorate."""

    network: str
    authority: PeerId | None = None

    def of(
        self,
        tokens: Mapping[PeerId, bytes],
        block_of: Callable[[PeerId], str | None],
        now_ms: int,
    ) -> dict[PeerId, float]:
        """The votes of the peers in ``tokens`` (what each showed as its admission, or nothing).

        ``block_of``: the address block that a peer was reached in; those of unknown ones share a vote.
        """
        if self.authority is not None:
            return {
                peer: 1.0
                for peer, token in tokens.items()
                if peer == self.authority or is_admitted(token, peer, self.network, self.authority, now_ms)
            }
        return _shared(tokens, block_of)


def _shared(peers: Collection[PeerId], block_of: Callable[[PeerId], str | None]) -> dict[PeerId, float]:
    blocks = {peer: block_of(peer) or "unknown" for peer in peers}
    crowd = Counter(blocks.values())
    return {peer: 1.0 / crowd[block] for peer, block in blocks.items()}

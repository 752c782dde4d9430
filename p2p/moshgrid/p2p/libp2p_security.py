"""Which security protocols a host speaks, the faster on this machine first; nothing else, plaintext never."""

from __future__ import annotations

from libp2p.abc import ISecureTransport
from libp2p.custom_types import TProtocol

from moshgrid.p2p.cipher_speed import aes_is_faster
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_noise import NOISE_ID, NoiseTransport
from moshgrid.p2p.libp2p_tls import TLS_ID, TlsTransport

__all__ = ["security_transports"]


def security_transports(identity: Identity) -> dict[TProtocol, ISecureTransport]:
    """What is offered when dialling, in this order, and accepted when called.

    TLS encrypts with AES-GCM and is first where the processor has instructions for it; Noise has
    ChaCha20, which needs none.
    """
    tls, noise = (TLS_ID, TlsTransport(identity)), (NOISE_ID, NoiseTransport(identity))
    order: list[tuple[str, ISecureTransport]] = [tls, noise] if aes_is_faster() else [noise, tls]
    return {TProtocol(protocol): transport for protocol, transport in order}

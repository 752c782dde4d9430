"""Certificates of libp2p's TLS (specs/tls): self-signed, with an extension that binds their key to a peer."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.secure_channel import RecordError
from moshgrid.p2p.signed_key import identity_key_bytes, peer_of_identity_key

__all__ = ["make_certificate", "peer_of_certificate"]

_OID = ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_SIGNED_PREFIX = b"libp2p-tls-handshake:"
_BACKDATED = datetime.timedelta(days=1)  # for peers whose clock is behind ours
_LIFE = datetime.timedelta(days=365 * 100)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that are malformed, or of kinds that it does not know."""
_KNOWN_CRITICAL = {x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid, _OID}


def make_certificate(identity: Identity) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new certificate for ``identity`` and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    signature = identity.sign(_SIGNED_PREFIX + _subject_key(key.public_key()))
    proof = _octets(identity_key_bytes(identity.public_key)) + _octets(signature)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "libp2p")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(name)
        .issuer_name(name)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LIFE)
        .public_key(key.public_key())
        .add_extension(
            x509.UnrecognizedExtension(_OID, b"\x30" + bytes([len(proof)]) + proof), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def peer_of_certificate(certificate: x509.Certificate) -> PeerId:
    """The peer that ``certificate`` belongs to. Raises RecordError for anything but an honest one."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise RecordError("has a certificate that is not valid today")
        extensions = certificate.extensions
        certificate.verify_directly_issued_by(certificate)
        subject_key = _subject_key(certificate.public_key())
        # The one byte that no signature covers: how many bits of the signature itself do not count.
        if not certificate.public_bytes(Encoding.DER).endswith(b"\0" + certificate.signature):
            raise ValueError("its signature is not whole bytes")
    except InvalidSignature:
        raise RecordError("has a certificate that it did not sign itself") from None
    except _UNREADABLE as error:
        raise RecordError(f"has a certificate that cannot be read: {error}") from None
    if unknown := [
        one.oid.dotted_string for one in extensions if one.critical and one.oid not in _KNOWN_CRITICAL
    ]:
        raise RecordError(f"has a certificate with the unknown critical extension {unknown[0]}")
    proofs = [one.value for one in extensions if one.oid == _OID]
    if not proofs or not isinstance(proofs[0], x509.UnrecognizedExtension):
        raise RecordError("has a certificate without the libp2p extension")
    identity_key, signature = _read_proof(proofs[0].value)
    return peer_of_identity_key(identity_key, signature, _SIGNED_PREFIX + subject_key)


def _subject_key(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _octets(data: bytes) -> bytes:
    assert len(data) < 128
    return b"\x04" + bytes([len(data)]) + data


def _read_proof(der: bytes) -> tuple[bytes, bytes]:
    """The two octet strings of a SignedKey; for Ed25519 all lengths fit in one byte."""
    if len(der) >= 4 and der[0] == 0x30 and der[1] == len(der) - 2 < 128 and der[2] == 0x04:
        middle = 4 + der[3]
        if middle + 2 <= len(der) and der[middle] == 0x04 and der[middle + 1] == len(der) - middle - 2:
            return der[4:middle], der[middle + 2 :]
    raise RecordError("has a certificate whose libp2p extension is not that of an Ed25519 key")

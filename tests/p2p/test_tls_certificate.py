"""Certificates: an honest one is known again, and everything else is refused with a reason."""

import datetime

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID
from libp2p.peer.id import ID
from OpenSSL import SSL
from wire_pipe import pipe

from moshgrid.p2p import tls_certificate, tls_handshake
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_securing import HandshakeRefused
from moshgrid.p2p.libp2p_tls import TlsTransport
from moshgrid.p2p.secure_channel import RecordError
from moshgrid.p2p.tls_certificate import make_certificate, peer_of_certificate

ALICE, BOB = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
OID = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
DAY = datetime.timedelta(days=1)


def forge(
    identity=ALICE,
    *,
    key=None,
    signer=None,
    starts=-1,
    ends=1,
    proof=None,
    extension=True,
    critical=(),
    issuer="libp2p",
    claimed=None,
):
    """A certificate with one thing wrong."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject_key = tls_certificate._subject_key(key.public_key())
    if proof is None:
        signature = identity.sign(b"libp2p-tls-handshake:" + subject_key)
        public = b"\x08\x01\x12\x20" + (claimed or identity).public_key
        proof = b"\x30\x68\x04\x24" + public + b"\x04\x40" + signature
    name, issuer_name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("libp2p", issuer)
    )
    builder = (
        x509.CertificateBuilder()
        .serial_number(1)
        .subject_name(name)
        .issuer_name(issuer_name)
        .not_valid_before(now + starts * DAY)
        .not_valid_after(now + ends * DAY)
        .public_key(key.public_key())
    )
    if extension:
        builder = builder.add_extension(x509.UnrecognizedExtension(OID, proof), critical=OID in critical)
    for oid in critical:
        if oid != OID:
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\5\0"), critical=True)
    signing = signer or key
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing, algorithm), key


def test_an_honest_certificate_names_its_peer():
    assert peer_of_certificate(make_certificate(ALICE)[0]) == ALICE.peer_id
    for key in (
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ):
        assert peer_of_certificate(forge(key=key)[0]) == ALICE.peer_id
    assert peer_of_certificate(forge(critical=(OID,))[0]) == ALICE.peer_id


FORGERIES = {
    "without the libp2p extension": lambda: forge(extension=False),
    "signature that is not valid": lambda: forge(claimed=BOB),
    "not valid today": lambda: forge(starts=-3, ends=-1),
    "not valid today ": lambda: forge(starts=1, ends=3),
    "did not sign itself": lambda: forge(signer=ec.generate_private_key(ec.SECP256R1())),
    "cannot be read": lambda: forge(issuer="somebody else"),
    "critical extension 1.2.3.4": lambda: forge(critical=(x509.ObjectIdentifier("1.2.3.4"),)),
    "not that of an Ed25519 key": lambda: forge(proof=b"\x30\x82\x01\x00" + bytes(256)),
    "not that of an Ed25519 key ": lambda: forge(proof=b""),
    "not Ed25519": lambda: forge(proof=b"\x30\x08\x04\x02\x08\x01\x04\x02\1\2"),
}


@pytest.mark.parametrize("reason", FORGERIES)
def test_a_forged_certificate_is_refused(reason):
    with pytest.raises(RecordError, match=reason.strip()):
        peer_of_certificate(FORGERIES[reason]()[0])


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_changed_certificate_is_refused():
    der = b"\1"
    while der[-1] & 7:  # the last bits must be 0 for the count of unused bits to be changeable
        der = make_certificate(ALICE)[0].public_bytes(Encoding.DER)
    for position in range(8 * len(der)):
        offset, bit = divmod(position, 8)
        changed = der[:offset] + bytes([der[offset] ^ 1 << bit]) + der[offset + 1 :]
        try:
            certificate = x509.load_der_x509_certificate(changed)
        except (ValueError, x509.InvalidVersion):
            continue
        with pytest.raises(RecordError):
            peer_of_certificate(certificate)


async def handshake_with(liar: TlsTransport, *, liar_dials: bool) -> Exception | None:
    """How our side refuses a peer; None when it does not."""
    ends = pipe()
    ours = TlsTransport(BOB)
    outcome = []

    async def our_side():
        try:
            if liar_dials:
                await ours.secure_inbound(ends[1])
            else:
                await ours.secure_outbound(ends[0], ID.from_base58(ALICE.peer_id))
            outcome.append(None)
        except HandshakeRefused as error:
            outcome.append(error)

    async def their_side():
        try:
            if liar_dials:
                await liar.secure_outbound(ends[0], ID.from_base58(BOB.peer_id))
            else:
                await liar.secure_inbound(ends[1])
        except HandshakeRefused:
            pass

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(our_side)
            nursery.start_soon(their_side)
    return outcome[0]


BOTH_WAYS = pytest.mark.parametrize("liar_dials", [True, False])


@BOTH_WAYS
@pytest.mark.parametrize("reason", FORGERIES)
def test_a_peer_with_a_forged_certificate_is_refused(reason, liar_dials):
    liar = TlsTransport(ALICE)
    certificate, key = FORGERIES[reason]()
    for context in (liar._contexts.client, liar._contexts.server):
        context.use_certificate(certificate)
        context.use_privatekey(key)
    refused = trio.run(lambda: handshake_with(liar, liar_dials=liar_dials))
    assert reason.strip() in str(refused)


@BOTH_WAYS
def test_two_certificates_are_refused(liar_dials):
    liar = TlsTransport(ALICE)
    for context in (liar._contexts.client, liar._contexts.server):
        context.add_extra_chain_cert(make_certificate(ALICE)[0])
    refused = trio.run(lambda: handshake_with(liar, liar_dials=liar_dials))
    assert "another number of certificates than one" in str(refused)


def test_a_peer_without_a_certificate_is_refused():
    liar = TlsTransport(ALICE)
    bare = SSL.Context(SSL.TLS_METHOD)
    bare.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    bare.set_alpn_protos([b"libp2p"])
    bare.set_keylog_callback(tls_handshake._keep_secret)
    liar._contexts.client = bare
    refused = trio.run(lambda: handshake_with(liar, liar_dials=True))
    assert "peer did not return a certificate" in str(refused)


@BOTH_WAYS
@pytest.mark.parametrize("offer", [[b"h2"], []])
def test_tls_that_is_not_for_libp2p_is_refused(offer, liar_dials):
    liar = TlsTransport(ALICE)
    fresh = SSL.Context(SSL.TLS_METHOD)
    certificate, key = make_certificate(ALICE)
    fresh.use_certificate(certificate)
    fresh.use_privatekey(key)
    fresh.set_keylog_callback(tls_handshake._keep_secret)
    fresh.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    if offer:
        fresh.set_alpn_protos(offer)
    liar._contexts.client = liar._contexts.server = fresh
    refused = trio.run(lambda: handshake_with(liar, liar_dials=liar_dials))
    assert isinstance(refused, HandshakeRefused)


@BOTH_WAYS
def test_tls_1_2_is_refused(liar_dials):
    liar = TlsTransport(ALICE)
    for context in (liar._contexts.client, liar._contexts.server):
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    refused = trio.run(lambda: handshake_with(liar, liar_dials=liar_dials))
    assert isinstance(refused, HandshakeRefused)


def test_the_certificate_key_is_not_the_identity():
    certificate, key = make_certificate(ALICE)
    spki = tls_certificate._subject_key(certificate.public_key())
    assert load_der_public_key(spki) == key.public_key()
    assert ALICE.private_bytes() not in certificate.public_bytes(Encoding.DER)

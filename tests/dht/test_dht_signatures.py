"""Ed25519 signatures on which implementations disagree: every peer must refuse them.

The cases are those of Chalkias, Garillot & Nikolaenko 2020, "Taming the many EdDSAs": their twelve published
vectors (ed25519-speccheck, cases.json), and more made here from their definition: small-order public keys
and R, mixed-order ones, S beyond the group order, and points in non-canonical form. A mixed-order key
with a signature that holds without multiplying by the cofactor is not told apart from an honest one by
anybody; such a key harms its owner only.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from moshgrid.averaging import round_driver
from moshgrid.p2p import envelope, identity, signed_key
from moshgrid.p2p.canonical import encode_fields
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, verify

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, P - 2, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, P - 2, P) % P
    return x, y


def times(n: int, point: Point) -> Point:
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def decode(y: int, sign: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P:
        return None
    return (P - x if x & 1 != sign else x), y


def base() -> Point:
    point = decode(4 * pow(5, P - 2, P) % P, 0)
    assert point is not None
    return point


def order_8() -> Point:
    y = 2
    while True:
        point = decode(y, 0)
        if point is not None:
            torsion = times(L, point)
            if times(4, torsion) != (0, 1):
                return torsion
        y += 1


B, T = base(), order_8()
SMALL = [times(n, T) for n in range(8)]


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


def scalar(s: int) -> bytes:
    return s.to_bytes(32, "little")


def test_the_arithmetic_here_is_right() -> None:
    assert times(L, B) == (0, 1) and len(set(SMALL)) == 8 and times(8, T) == (0, 1)
    secret = 12345
    key, r = encode(times(secret, B)), encode(times(678, B))
    s = (678 + challenge(r, key, b"m") * secret) % L
    assert verify(key, r + scalar(s), b"m")  # a good one passes, so the others fail for their own reason


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("small_r", [True, False])
def test_small_order_keys_are_refused(order: int, small_r: bool) -> None:
    key = encode(SMALL[order])
    for number in range(40):
        message = f"message {number}".encode()
        r = encode(SMALL[number % 8]) if small_r else encode(times(7, B))
        assert not verify(key, r + scalar(0 if small_r else 7), message)


@pytest.mark.parametrize("order", range(8))
def test_small_order_r_is_refused(order: int) -> None:
    secret = 999
    key, r = encode(times(secret, B)), encode(SMALL[order])
    for number in range(16):
        message = f"message {number}".encode()
        s = challenge(r, key, message) * secret % L
        assert not verify(key, r + scalar(s), message)


def test_signatures_that_hold_only_times_the_cofactor_are_refused() -> None:
    secret = 4321
    key = encode(add(times(secret, B), T))  # mixed order
    refused = 0
    for number in range(64):
        message = f"message {number}".encode()
        r = encode(times(55, B))
        h = challenge(r, key, message)
        s = (55 + h * secret) % L
        if h % 8:  # without the cofactor the equation fails
            refused += 1
            assert not verify(key, r + scalar(s), message)
    assert refused > 40
    key = encode(times(secret, B))
    r = encode(add(times(55, B), T))  # R of mixed order
    s = (55 + challenge(r, key, b"m") * secret) % L
    assert not verify(key, r + scalar(s), b"m")


def test_s_beyond_the_group_order_is_refused() -> None:
    identity = Identity.from_seed(bytes(32))
    good = identity.sign(b"m")
    s = int.from_bytes(good[32:], "little")
    assert verify(identity.public_key, good, b"m")
    for more in (L, 2 * L, 8 * L):
        if s + more < 1 << 256:
            assert not verify(identity.public_key, good[:32] + scalar(s + more), b"m")
    assert not verify(identity.public_key, good[:32] + scalar(s | 1 << 255), b"m")


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("low", range(19))
def test_keys_and_r_in_non_canonical_form_are_refused(low: int, sign: int) -> None:
    # y + p, for the few y below 19 for which that fits into 255 bits; the sign may be of nothing (x = 0).
    form = (low + P | sign << 255).to_bytes(32, "little")
    for number in range(8):
        message = f"message {number}".encode()
        assert not verify(form, encode((0, 1)) + scalar(0), message)
        assert not verify(form, form + scalar(0), message)
        secret = 31
        key = encode(times(secret, B))
        s = challenge(form, key, message) * secret % L
        assert not verify(key, form + scalar(s), message)
    assert not verify((1 | 1 << 255).to_bytes(32, "little"), encode((0, 1)) + scalar(0), b"m")


PUBLISHED = json.loads(Path(__file__).with_name("ed25519_speccheck.json").read_text())
ACCEPTED = {3}
"""Key and R of mixed order, and the equation holds as it stands: plain valid, and told apart by nobody."""


def openssl_accepts(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_each_published_vector_has_its_verdict_and_openssl_alone_would_differ() -> None:
    cases = [
        [bytes.fromhex(case[name]) for name in ("pub_key", "signature", "message")] for case in PUBLISHED
    ]
    assert len(cases) == 12
    assert {number for number, case in enumerate(cases) if verify(*case)} == ACCEPTED
    assert {number for number, case in enumerate(cases) if openssl_accepts(*case)} == {0, 1, 2, 3, 11}


@pytest.mark.parametrize("number", range(12))
def test_envelopes_give_the_published_vectors_the_same_verdict(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, signature, message = (
        bytes.fromhex(PUBLISHED[number][n]) for n in ("pub_key", "signature", "message")
    )
    monkeypatch.setattr(envelope, "_signed_bytes", lambda *_: message)
    raw = encode_fields({1: encode_fields({1: 1, 2: key}), 2: b"/t", 3: b"p", 5: signature})
    try:
        opened = envelope.open_envelope(raw, "d", b"/t", 999)
    except RecordRejected as error:
        assert error.code == "BAD_SIG" and number not in ACCEPTED
    else:
        assert opened.public_key == key and number in ACCEPTED


def test_every_path_checks_signatures_by_the_same_function() -> None:
    for module in (envelope, signed_key, round_driver):
        assert module.verify is identity.verify
    sources = Path(__file__).parents[2].glob("*/moshgrid/**/*.py")
    for file in sources:
        text = file.read_text()
        if file.name != "identity.py":
            assert "VerifyKey" not in text and "Ed25519PublicKey.from_public" not in text, (
                f"{file} checks signatures itself"
            )

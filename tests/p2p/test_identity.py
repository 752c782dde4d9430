"""Identities, peer ids and key files."""

from __future__ import annotations

import stat
import threading

import pytest

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import (
    Identity,
    peer_id_from_bytes,
    peer_id_from_public_key,
    peer_id_to_bytes,
    public_key_of,
    verify,
)


def test_peer_ids_are_libp2ps():
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for number in range(20):
        identity = Identity.from_seed(bytes([number]) * 32)
        keys = create_new_key_pair(identity.private_bytes())
        assert ID.from_pubkey(keys.public_key).to_base58() == identity.peer_id
        assert identity.peer_id.startswith("12D3KooW")
        raw = peer_id_to_bytes(identity.peer_id)
        assert raw == ID.from_pubkey(keys.public_key).to_bytes()
        assert peer_id_from_bytes(raw) == identity.peer_id
        assert public_key_of(identity.peer_id) == identity.public_key
        assert peer_id_from_public_key(identity.public_key) == identity.peer_id


@pytest.mark.parametrize(
    "text",
    ["", "x", "0OIl", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 52, "12D3" + "z" * 100, "é"],
)
def test_what_is_no_peer_id_is_refused(text):
    with pytest.raises(ValueError):
        peer_id_to_bytes(text)


def test_signatures():
    identity = Identity.generate()
    signature = identity.sign(b"message")
    assert verify(identity.public_key, signature, b"message")
    assert not verify(identity.public_key, signature, b"massage")
    assert not verify(Identity.generate().public_key, signature, b"message")
    assert not verify(identity.public_key, signature[:-1], b"message")
    assert not verify(b"short", signature, b"message")
    small_order = bytes([1]) + bytes(31)
    assert not verify(small_order, small_order + bytes(32), b"message")


def test_a_key_file_is_made_once_and_read_again(tmp_path):
    path = tmp_path / "sub" / "id.pem"
    first = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert Identity.load_or_create(str(path)).peer_id == first.peer_id


def test_starting_at_once_gives_one_key(tmp_path):
    path, seen = tmp_path / "id.pem", []
    go = threading.Barrier(8)

    def load():
        go.wait()
        seen.append(Identity.load_or_create(path).peer_id)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_a_file_that_is_no_key_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(ConfigurationError, match=r"notes\.txt is not an identity file"):
        Identity.load_or_create(path)
    assert path.read_text() == "dear diary"
    with pytest.raises(ConfigurationError):
        Identity.load_or_create(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot write"):
        Identity.load_or_create("/proc/none/id.pem")

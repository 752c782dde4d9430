"""Whom a newcomer believes: the production decision with members, many strangers and address blocks."""

import random

import pytest

from moshgrid.averaging.state import Brief
from moshgrid.averaging.state_choice import choose_state
from moshgrid.averaging.vouching import Trust, admit, authority_of, is_admitted
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import Identity

SCHEMA = bytes(32)
NOW = 1_800_000_000_000
OPEN = Trust("n")


def brief(round_number, name=b"", schema=SCHEMA):
    return Brief(round_number, name.ljust(31, b".") + bytes([round_number % 251]), schema)


def elected(offers, blocks, trust=OPEN, tokens=None):
    """What a newcomer takes, with votes as in a run: ``blocks`` says where each peer was reached."""
    tokens = tokens or {}
    votes = trust.of({peer: tokens.get(peer, b"") for peer in offers}, blocks.get, NOW)
    choice = choose_state(offers, votes, SCHEMA, trust.authority)
    return choice and choice.state


def honest(rng, count, round_number=12):
    """Peers in as many /24s, most of them at one state, and a few a round behind."""
    offers = {f"h{i}": brief(round_number if rng.random() < 0.8 else round_number - 1) for i in range(count)}
    offers["h0"] = offers["h1"] = brief(round_number)
    return offers, {peer: f"198.51.{i}.0/24" for i, peer in enumerate(offers)}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("claim", ["same round", "newer", "older", "far ahead", "all different"])
def test_a_hundred_identities_of_one_block_change_nothing(seed, claim):
    rng = random.Random(f"{seed}{claim}")
    offers, blocks = honest(rng, rng.randint(3, 12))
    taken = elected(offers, blocks)
    assert taken in offers.values()
    for i in range(100):
        claimed = {"same round": 12, "newer": 13, "older": 11, "far ahead": 10**9}
        number = claimed.get(claim, rng.randint(1, 99))
        name = b"forged%d" % i if claim == "all different" else b"forged"
        offers[f"x{i}"], blocks[f"x{i}"] = brief(number, name), "203.0.113.0/24"
    assert elected(offers, blocks) == taken


def test_a_crowd_does_outvote_where_there_is_only_its_own_block():
    offers = {"h": brief(5), **{f"x{i}": brief(5, b"forged") for i in range(9)}}
    assert elected(offers, dict.fromkeys(offers, "203.0.113.0/24")) == brief(5, b"forged")
    assert elected(offers, {}) == brief(5, b"forged")  # nobody's address is known: one block, too


@pytest.mark.parametrize("seed", range(20))
def test_with_an_authority_ten_times_as_many_strangers_change_nothing(seed):
    rng = random.Random(seed)
    authority = Identity.from_seed(bytes(31) + b"a")
    members = [Identity.from_seed(bytes(30) + bytes([1, i])).peer_id for i in range(4)]
    trust = Trust("n", authority.peer_id)
    tokens = {peer: admit(authority, peer, "n", NOW + 1000) for peer in members}
    offers = {peer: brief(7) for peer in members}
    offers[members[3]] = brief(6)
    assert elected(offers, {}, trust, tokens) == brief(7)
    blocks = {}
    forger = Identity.from_seed(bytes(31) + b"f")
    for i in range(10 * len(members)):
        stranger = Identity.from_seed(bytes(29) + bytes([2, seed, i])).peer_id
        offers[stranger] = brief(rng.choice([7, 8, 10**6]), b"forged")
        blocks[stranger] = f"203.0.{i}.0/24"
        tokens[stranger] = rng.choice(
            [
                b"",
                bytes(80),
                tokens[members[0]],  # another's
                admit(forger, stranger, "n", NOW + 1000),
                admit(authority, stranger, "another network", NOW + 1000),
                admit(authority, stranger, "n", NOW),  # over
            ]
        )
    assert elected(offers, blocks, trust, tokens) == brief(7)


def test_what_the_authority_offers_itself_is_taken():
    authority = Identity.from_seed(bytes(31) + b"a")
    trust = Trust("n", authority.peer_id)
    members = ["m0", "m1", "m2"]
    tokens = {peer: admit(authority, peer, "n", NOW + 1000) for peer in members}
    offers = {**{peer: brief(9) for peer in members}, authority.peer_id: brief(4, b"published")}
    assert elected(offers, {}, trust, tokens) == brief(4, b"published")


def test_without_anybody_admitted_nothing_is_taken():
    trust = Trust("n", Identity.from_seed(bytes(32)).peer_id)
    assert elected({"x": brief(3), "y": brief(3)}, {}, trust) is None


def test_the_newest_round_wins_that_enough_have_reached_and_within_it_the_majority():
    offers = {"a": brief(3), "b": brief(4), "c": brief(4, b"other"), "d": brief(4)}
    votes = dict.fromkeys(offers, 1.0)
    choice = choose_state(offers, votes, SCHEMA)
    assert choice.state == brief(4) and choice.donors == ("b", "d") and not choice.has_majority
    offers["e"] = brief(4)
    choice = choose_state(offers, {**votes, "e": 1.0}, SCHEMA)
    assert choice.donors == ("b", "d", "e") and choice.has_majority


def test_two_that_differ_by_a_round_give_the_newer():
    assert elected({"a": brief(4), "b": brief(5)}, {"a": "1", "b": "2"}) == brief(5)


def test_strangers_may_give_bytes_though_they_have_no_vote():
    choice = choose_state({"m": brief(4), "s": brief(4), "t": brief(5)}, {"m": 1.0}, SCHEMA)
    assert choice.donors == ("m", "s") and choice.has_majority


def test_other_schemas_and_nonsense_do_not_count():
    for offer in (brief(4, schema=b"x" * 32), Brief(4, b"short", SCHEMA), Brief(-1, bytes(32), SCHEMA)):
        assert choose_state({"a": offer}, {"a": 1.0}, SCHEMA) is None
    assert choose_state({"a": brief(4, schema=b"x" * 32)}, {"a": 1.0}, None) is not None
    assert choose_state({}, {}, SCHEMA) is None


def test_an_authority_is_spelled_as_peer_id_hex_or_base64():
    from base64 import urlsafe_b64encode

    identity = Identity.from_seed(bytes(32))
    for text in (
        identity.peer_id,
        identity.public_key.hex(),
        urlsafe_b64encode(identity.public_key).decode(),
        urlsafe_b64encode(identity.public_key).decode().rstrip("="),
    ):
        assert authority_of(text) == identity.peer_id
    for text in ("", "12D3nonsense", "zz" * 32, "AAAA", identity.peer_id + "x"):
        with pytest.raises(ConfigurationError, match="authority"):
            authority_of(text)


def test_every_flipped_bit_of_an_admission_is_noticed():
    authority, peer = Identity.from_seed(bytes(32)), Identity.from_seed(bytes(31) + b"p").peer_id
    token = admit(authority, peer, "n", NOW + 1)
    assert is_admitted(token, peer, "n", authority.peer_id, NOW)
    for bit in range(8 * len(token)):
        flipped = bytearray(token)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not is_admitted(bytes(flipped), peer, "n", authority.peer_id, NOW)

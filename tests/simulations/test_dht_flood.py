"""D6: whoever has one address range and any number of identities cannot push others out of a store."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from moshgrid.dht.diversity import Place
from moshgrid.dht.limits import Limits
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.store import RecordStore
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PeerId

NOW = 1_700_000_000_000
OWN = PeerId("own")


def record(author: int, key: bytes, seq: int, size: int = 250, ttl: int = 3_600_000) -> SignedRecord:
    """What the reader returns, without the price of a signature."""
    name = PeerId(f"author {author}")
    raw = b"%d %s %d" % (author, key, seq)
    return SignedRecord(
        raw=raw.ljust(size), author=name, key=key, subkey=name.encode(), seq=seq, expires=seq + ttl,
        value=b"\x01", deleted=False, payload_hash=hashlib.sha256(raw).digest(),
    )  # fmt: skip


def instructions(call: Callable[[], object]) -> int:
    """How many instructions of Python ``call`` runs: a time that no other program changes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("scale", "ttl"),
    [
        pytest.param(16, 3_600_000, id="sample"),
        pytest.param(16, 120_000, id="sample, short-lived"),
        pytest.param(1, 3_600_000, id="whole", marks=pytest.mark.slow),
        pytest.param(1, 120_000, id="whole, short-lived", marks=pytest.mark.slow),
    ],
)
def test_d6_a_flood_from_one_range_leaves_honest_records_alone(scale: int, ttl: int) -> None:
    """10⁶ records of 10⁴ keys from all 256 blocks of one /16, while honest authors come and refresh."""
    limits = Limits(
        total_bytes=64 * 1024 * 1024 // scale, bytes_per_range=8 * 1024 * 1024 // scale,
        bytes_per_block=1024 * 1024 // scale, floors=262_144 // scale,
    )  # fmt: skip
    chance, seed = random.Random(6), 6
    store, calm = RecordStore(OWN, limits, b"secret"), RecordStore(OWN, limits, b"secret")
    flood, honest = 1_000_000 // scale, 40_000 // scale
    places: list[Place] = [(f"20.{n // 9 % 250}.{n}", f"20.{n // 9 % 250}") for n in range(2_000)]
    newest: dict[tuple[bytes, int], int] = {}
    refused, biggest, trace, now = 0, 0, hashlib.sha256(), NOW
    flooded_work: list[int] = []
    calm_work: list[int] = []
    samples = set(chance.sample(range(flood // 10, flood), 1_000))
    for number in range(flood):
        if number % (flood // honest) == 0:  # half are new, half refresh what is there
            author = number // (flood // honest) // 2 * 7
            key = b"honest %d" % (author % 5_000)
            place = places[author % len(places)]
            calm.put(record(author, key, now), now, place)
            try:
                store.put(record(author, key, now), now, place)
                newest[key, author] = now
            except RecordRejected:
                refused += 1
        block = chance.randrange(256)
        attack = record(1_000_000 + number // 60, b"k%d" % chance.randrange(10_000), now, ttl=ttl)
        try:
            outcome = store.put(attack, now, (f"66.6.{block}", "66.6")).value
        except RecordRejected as error:
            outcome = error.code
        trace.update(outcome.encode())
        biggest = max(biggest, store.size)
        if number in samples:
            key = chance.choice(list(newest))[0]
            flooded_work.append(instructions(partial(store.changes, key, 0, now)))
            calm_work.append(instructions(partial(calm.changes, key, 0, now)))
        if number % (1_000 // scale) == 0:
            now += 1_000  # a thousand signatures are checked a second
    kept = sum(store.find(key, f"author {author}".encode(), now) is not None for key, author in newest)
    print(f"\nD6 seed {seed} trace {trace.hexdigest()[:16]}: {flood} flooded, {kept} of {len(newest)} honest"
          f" records kept, {refused} refused, at most {biggest} bytes")  # fmt: skip
    slow, usual = sorted(flooded_work)[989], sorted(calm_work)[989]
    print(f"GET, 99th percentile: {slow} instructions in the flood, {usual} without it")
    assert slow <= 2 * usual
    assert biggest <= limits.total_bytes
    assert kept >= 0.99 * (len(newest) + refused)

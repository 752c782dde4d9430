"""Namespaces: which values a storer holds, and what its validators may say about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from moshgrid.dht import Record
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import SignedRecord
from moshgrid.p2p.errors import ConfigurationError, RecordRejected
from moshgrid.p2p.testing import run_virtual

NOW = 1_700_000_000_000
Sign = Callable[..., SignedRecord]


@dataclass
class Temperatures:
    namespace: str = "weather"
    max_ttl_ms: int = 300_000
    max_value: int = 9

    def validate(self, record: Record, now_ms: int) -> None:
        if record.value["celsius"] < -273:
            raise RecordRejected("SCHEMA", "below absolute zero")


@pytest.mark.parametrize("key", ["plain", "services/gpu", "avg/run/members"])
def test_some_namespaces_are_open_from_the_start(sign: Sign, key: str) -> None:
    Namespaces().check(sign(key=key, seq=NOW), NOW)


def test_others_are_refused_until_they_are_opened(sign: Sign) -> None:
    namespaces, record = Namespaces(), sign(key="weather/oslo", seq=NOW)
    with pytest.raises(RecordRejected, match=r"SCHEMA.*'weather' is not open.*open_namespace"):
        namespaces.check(record, NOW)
    namespaces.check_read(record, NOW)  # whoever reads it decides for itself
    namespaces.open("weather")
    namespaces.check(record, NOW)


@pytest.mark.parametrize(
    ("value", "ttl", "code"),
    [
        (b"\x81\xa7celsius\xd0\x80", 300_000, "TOO_LARGE"),
        (b"\x81\xa7celsius", 300_000, "SCHEMA"),
        (b"\x81\xa3cel\x05", 300_000, "SCHEMA"),
        (b"\x05", 300_000, "SCHEMA"),
        (b"\xc1", 300_000, "SCHEMA"),
        (b"\x81\xa1c\x05", 300_001, "BAD_TTL"),
    ],
)
def test_a_validator_refuses(sign: Sign, value: bytes, ttl: int, code: str) -> None:
    namespaces = Namespaces()
    namespaces.register(Temperatures())
    with pytest.raises(RecordRejected) as refusal:
        namespaces.check(sign(key="weather/oslo", value=value, seq=NOW, ttl=ttl), NOW)
    assert refusal.value.code == code


def test_a_validator_lets_pass_and_is_not_asked_about_deletions(sign: Sign) -> None:
    namespaces = Namespaces()
    namespaces.register(Temperatures(max_value=20))
    namespaces.check(sign(key="weather/oslo", value=b"\x81\xa7celsius\x05", seq=NOW, ttl=60_000), NOW)
    namespaces.check(sign(key="weather/oslo", deleted=True, seq=NOW), NOW)


def test_a_validator_cannot_lift_the_rules_for_all(sign: Sign) -> None:
    namespaces = Namespaces()
    for wrong in (
        Temperatures(max_ttl_ms=3_600_001),
        Temperatures(max_value=1025),
        Temperatures(namespace="a/b"),
        Temperatures(max_value=0),
    ):
        with pytest.raises(ConfigurationError):
            namespaces.register(wrong)
    namespaces.register(Temperatures(max_value=20))
    with pytest.raises(RecordRejected, match="EXPIRED"):
        namespaces.check(sign(key="weather/oslo", value=b"\x81\xa7celsius\x05", seq=1, ttl=60_000), NOW)


def test_storers_that_opened_it_hold_it_and_others_say_why_not(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            await trio.sleep(3)  # everybody knows everybody
            author, opened, shut = net.nodes[0], net.nodes[1:3], net.nodes[3:]
            with pytest.raises(RecordRejected, match="not open"):
                await author.put("weather/oslo", {"celsius": 5})
            for node in (author, *opened):
                node.register(Temperatures(max_value=20))
            report = await author.put("weather/oslo", {"celsius": 5}, ttl=60)
            holders = {node.host.peer_id for node in (author, *opened)}
            assert set(report.stored_at) == holders, report
            assert report.refused == {node.host.peer_id: "SCHEMA" for node in shut}
            assert (await shut[0].get("weather/oslo")).value == {"celsius": 5}
            with pytest.raises(RecordRejected, match="absolute zero"):
                await author.put("weather/oslo", {"celsius": -300}, ttl=60)

    run_virtual(main)


def test_a_reader_does_not_see_what_its_validator_refuses_and_storers_let_pass(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            *others, careless, reader = net.nodes
            for node in others:
                node.open_namespace("weather")
            await trio.sleep(3)
            report = await others[0].put("weather/oslo", {"celsius": -300}, ttl=200)
            assert len(report.stored_at) >= 5
            assert await reader.get("weather/oslo") is not None, "it has no rules yet"
            reader.register(Temperatures(max_value=20))
            heard: list[object] = []
            async with trio.open_nursery() as nursery, reader.watch("weather/oslo") as changes:

                async def listen() -> None:
                    async for record in changes:
                        heard.append(record.value)

                nursery.start_soon(listen)
                assert await reader.get("weather/oslo") is None, "not what it saw before it asked for more"
                assert await reader.get_all("weather/oslo") == {}
                assert (await careless.get("weather/oslo")).value == {"celsius": -300}
                await others[1].put("weather/oslo", {"celsius": 5}, ttl=200)
                await trio.sleep(3)
                assert [r.value for r in (await reader.get_all("weather/oslo")).values()] == [{"celsius": 5}]
                found = await reader.get("weather/oslo")
                assert found is not None and found.author == others[1].host.peer_id
                assert heard == [{"celsius": 5}]
                nursery.cancel_scope.cancel()

    run_virtual(main)

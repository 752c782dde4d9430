"""``moshgrid dht`` beside a node."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import run_command

from moshgrid.dht import DHT
from moshgrid.p2p import Node

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
LISTEN = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture(scope="module")
def dht() -> Iterator[DHT]:
    with Node([LISTEN], network="cli") as node:
        yield DHT(node)


def run(dht: DHT, *arguments: str, status: int = 0) -> str:
    done = run_command("dht", *arguments, "--join", dht.node.link, "--listen", LISTEN)
    assert (done.returncode, done.stderr) == (status, ""), done
    return done.stdout


def checked(kind: str, text: str) -> Any:
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(value, json.loads((SCHEMAS / f"dht-{kind}.schema.json").read_text()))
    return value


def test_what_is_put_is_seen_by_get_inspect_and_the_node(dht: DHT, tmp_path: Path) -> None:
    key = ("--identity", str(tmp_path / "k"))
    put = checked("put", run(dht, "put", "services/gpu", '{"vram": 24}', "--ttl", "60", *key, "--json"))
    assert put["stored_at"] == [dht.peer_id] and not put["refused"]
    again = checked("put", run(dht, "put", "services/gpu", "plain text", *key, "--suffix", "s", "--json"))
    assert again["author"] == put["author"]
    assert dht.get_all("services/gpu")[put["author"]].value == {"vram": 24}
    got = checked("get", run(dht, "get", "services/gpu", "--json"))
    assert [record["value"] for record in got["records"]] == ["plain text", {"vram": 24}]
    seen = checked("inspect", run(dht, "inspect", "services/gpu", "--json"))
    assert [asked["peer"] for asked in seen["asked"]] == [dht.peer_id]
    assert [dht.peer_id in record["holders"] for record in seen["records"]] == [True, True]
    assert "1 peers asked" in run(dht, "inspect", "services/gpu")
    assert f"{put['author']}/s" in run(dht, "get", "services/gpu")


def test_a_missing_key_is_exit_status_1(dht: DHT) -> None:
    assert checked("get", run(dht, "get", "missing", "--json", status=1))["records"] == []
    assert run(dht, "get", "missing", status=1) == ""


def test_watch_prints_each_record(dht: DHT) -> None:
    dht.put("watched", [1, b"\x02"])
    dht.put("watched", 3, suffix="s")
    lines = run(dht, "watch", "watched", "--count", "2", "--json").splitlines()
    values = [checked("watch", line)["value"] for line in lines]
    assert values == [[1, "02"], 3] or values == [3, [1, "02"]]


def test_what_strangers_put_and_json_cannot_say_spoils_no_output(dht: DHT) -> None:
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    odd = {b"\x01": math.nan, 2: -math.inf, None: [True, {1.5: b"\x02"}], "deep": deep}
    dht.put("odd", odd)
    dht.put("odd", None, suffix="s")
    got = checked("get", run(dht, "get", "odd", "--json"))["records"]
    values = {record["suffix"]: record["value"] for record in got}
    assert values[""].pop("deep") and values == {
        "": {"01": "nan", "2": "-inf", "null": [True, {"1.5": "02"}]},
        "s": None,
    }
    dht.delete("odd", suffix="s")
    lines = run(dht, "watch", "odd", "--count", "2", "--json").splitlines()
    assert sorted(checked("watch", line)["deleted"] for line in lines) == [False, True]
    assert "null" in run(dht, "get", "odd")
    checked("inspect", run(dht, "inspect", "odd", "--json"))


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["put", "k", "1", "--ttl", "0.5"], 2, "ttl=0.5 is not allowed"),
        (["put", "other/k", "1"], 1, "'other' is not open"),
        (["get", "k" * 200], 2, "1 to 128 bytes"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(dht: DHT, arguments: list[str], status: int, text: str) -> None:
    done = run_command("dht", *arguments, "--join", dht.node.link, "--listen", LISTEN)
    assert done.returncode == status and done.stdout == ""
    assert text in done.stderr and done.stderr.count("\n") == 1, done.stderr

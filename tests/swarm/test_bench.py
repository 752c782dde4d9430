"""``moshgrid bench net``: it measures, in short here, and prints what its schema says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from commands import run_command

from moshgrid.p2p import Node
from moshgrid.p2p.errors import ConfigurationError, Unreachable
from moshgrid.swarm.bench.net import measure_here, measure_peer, table

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/bench-net.schema.json").read_text())


def test_it_measures_this_computer_beside_sockets():
    steps: list[str] = []
    result = measure_here(steps.append, seconds=0.01)
    jsonschema.validate(result, SCHEMA)
    assert list(result["systems"]) == ["moshgrid", "ssl", "raw"]
    assert steps[0] == "moshgrid: one way" and len(steps) == 13
    lines = table(result).splitlines()
    assert lines[0].split()[-3:] == ["moshgrid", "ssl", "raw"] and len(lines) == 6


def test_it_measures_the_way_to_a_peer():
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        done = run_command("bench", "net", node.addrs[0], "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        jsonschema.validate(result, SCHEMA)
        assert result["address"] == node.addrs[0]
        assert node.addrs[0] in table(result)
        gone = node.addrs[0]
    with pytest.raises(Unreachable):
        measure_peer(gone, lambda step: None)


def test_an_address_that_is_none_is_named():
    with pytest.raises(ConfigurationError, match="form is"):
        measure_peer("localhost:80", lambda step: None)

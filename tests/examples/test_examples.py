"""Every example runs as a newcomer would start it: by its path, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from moshgrid.dht import DHT
from moshgrid.p2p import Node

pytestmark = pytest.mark.timeout(300)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXPECTED = {
    "volunteer.py": r"loss 0\.\d+  round \d+: averaged with [12] of [12] peers? in",
    "federated.py": r"hospital \d: right on 9\d\.\d%  round \d+: averaged with [12] of [12] peers? in",
    "service_registry.py": r"12D3KooW\w+ offers \{'vram': 80\}, expires in \d+ s",
}


def _run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_examples_are_listed_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*EXPECTED, "char_transformer.py"}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs_alone(name: str) -> None:
    said = _run(name)
    assert re.search(EXPECTED[name], said), said


def test_a_transformer_is_trained_by_two_processes() -> None:
    said = _run("char_transformer.py", "--json", "--peers=2", "--steps=12", "--batch=2", "--sync-every=6")
    result = json.loads(said)
    schema = EXAMPLES.parent / "docs/schemas/example-char-transformer.schema.json"
    jsonschema.validate(result, json.loads(schema.read_text()))
    assert result["loss"] < 4.6, "the logarithm of the number of letters"
    assert result["fewer_bytes_than_float32"] > 8


def test_the_service_registry_is_short() -> None:
    assert len((EXAMPLES / "service_registry.py").read_text().splitlines()) < 40


def test_the_service_registry_joins_through_a_link() -> None:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="my-tool") as node, DHT(node) as dht:
        dht.put("services/gpu", {"vram": 80}, ttl=600)
        said = _run("service_registry.py", node.link)
    assert re.search(EXPECTED["service_registry.py"], said), said
    assert "announced at" in said

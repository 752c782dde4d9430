"""The benchmark of secured connections runs, and prints what its schema says."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_benchmark_prints_follows_its_schema():
    command = [sys.executable, ROOT / "benchmarks/secure_channel.py", "--megabytes=2", "--rounds=1", "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)
    schema = json.loads((ROOT / "docs/schemas/benchmark-secure-channel.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert [row["path"] for row in report["paths"]] == [
        "moshgrid tls",
        "moshgrid noise",
        "plain ssl",
        "raw sockets",
    ]

"""The benchmark of the wire runs, and prints what its schema says."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_benchmark_prints_follows_its_schema():
    command = [sys.executable, ROOT / "benchmarks/wire.py", "--systems=moshgrid,ssl", "--json"]
    command += ["--megabytes=1", "--requests=5", "--dials=2", "--idle=3"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)
    schema = json.loads((ROOT / "docs/schemas/benchmark-wire.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert list(report["systems"]) == ["moshgrid", "ssl"]
    rows = {
        (row["streams"], row["write_bytes"], row["both_ways"]) for row in report["ratios"]["ssl"]["streams"]
    }
    assert rows == {(n, size, both) for n in (1, 16) for size in (65536, 1 << 20) for both in (False, True)}
    ours, theirs = (report["systems"][name]["streams"][0]["mb_per_s"] for name in ("moshgrid", "ssl"))
    assert report["ratios"]["ssl"]["streams"][0]["mb_per_s"] == round(ours / theirs, 3)

"""Every benchmark runs, small, and prints what its schema says."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"link_relay"}  # parts of others
SMALL = {
    "averaging": ["--peers", "2", "--megabytes", "0.2", "--rounds", "1"],
    "codec_error": ["--codecs=range8", "--spreads=0.01", "--elements=128", "--steps=10", "--seeds=1"],
    "codecs": ["--megabytes=0.5", "--rounds=1", "--codecs=float16,int8"],
    "dht": ["--nodes", "4", "--operations", "3", "--keys", "8", "--pause", "1"],
    "dht_hops": ["--sizes", "60", "--lookups", "10"],
    "matchmaking": ["--rounds", "2", "--peers", "2", "--pause", "0.1"],
    "faults": ["--peers", "5", "--megabytes", "0.4", "--faults", "kill"],
    "secure_channel": ["--megabytes", "2", "--rounds", "1"],
    "training": ["--peers=2", "--epochs=2", "--target-batch=256", "--faults=none"],
    "wire": ["--systems=moshgrid,ssl", "--megabytes=1", "--requests=5", "--dials=2", "--idle=3"],
}


SCRIPTS = sorted(path for path in ROOT.glob("benchmarks/*.py") if path.stem not in MODULES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_prints_what_its_schema_says(script):
    name = f"benchmark-{script.stem.replace('_', '-')}.schema.json"
    schema = json.loads((ROOT / "docs/schemas" / name).read_text())
    command = [sys.executable, str(script), "--json", *SMALL[script.stem]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(done.stdout), schema)

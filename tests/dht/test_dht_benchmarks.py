"""The DHT's benchmarks, small: they run, and print what their schemas say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> Any:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def checked(value: Any) -> Any:
    schema = ROOT / "docs/schemas" / f"benchmark-{value['benchmark']}.schema.json"
    jsonschema.validate(value, json.loads(schema.read_text()))
    return value


def test_speed() -> None:
    value = checked(
        run(
            "dht.py",
            "--nodes",
            "4",
            "--operations",
            "3",
            "--keys",
            "8",
            "--pause",
            "1",
            "--watch-nodes",
            "3",
            "--processes",
            "3",
        )
    )
    assert set(value["systems"]) == {"moshgrid"}


def test_hops(tmp_path: Path) -> None:
    png = tmp_path / "hops.png"
    (row,) = checked(run("dht_hops.py", "--sizes", "60", "--lookups", "10", "--png", str(png)))["sizes"]
    assert 1 <= row["hops"] <= row["most_hops"] <= 4 and 20 <= row["questions"] <= 40
    assert png.read_bytes().startswith(b"\x89PNG")

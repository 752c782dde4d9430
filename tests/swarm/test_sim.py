"""``moshgrid sim``: its report is what the schema says, its picture is there, bad values are one line."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from commands import run_command
from rich.progress import Progress

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.swarm.sim.program import simulate
from moshgrid.swarm.sim.settings import SimSettings

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/sim.schema.json").read_text())
SMALL = ["--peers", "36", "--group-size", "6", "--restarts", "3", "--rounds", "20"]


def run(*arguments):
    return run_command("sim", *arguments)


def test_the_report_the_picture_and_the_json(tmp_path):
    out = tmp_path / "report"
    done = run(*SMALL, "--failure", "0", "--seed", "3", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    assert json.loads((out / "sim.json").read_text()) == report
    assert report["methods"]["grid"]["rounds_to_1e-9"] == 2.0
    assert report["methods"]["all-reduce"]["rounds_to_1e-9"] == 1.0
    assert (out / "sim.png").read_bytes().startswith(b"\x89PNG")
    told = run(*SMALL, "--out", str(out))
    assert told.stdout.startswith("36 peers in groups of 6, each missing a round with p = 0.01")


def test_a_seed_repeats_itself():
    settings = SimSettings(peers=20, group_size=5, restarts=2, failure=0.1, seed=7)
    reports = [simulate(settings, False, Progress(disable=True)) for _ in range(2)]
    assert reports[0] == reports[1]
    other = simulate(replace(settings, seed=8), False, Progress(disable=True))
    assert other["methods"]["grid"] != reports[0]["methods"]["grid"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"peers": 3}, "--peers must be a whole number from 4 to 4096, not 3"),
        ({"group_size": 65}, "--group-size must be a whole number from 2 to 64, not 65"),
        ({"failure": 1.0}, "--failure must be a number from 0 to 0.9, not 1.0"),
        ({"failure": float("nan")}, "--failure must be a number from 0 to 0.9, not nan"),
        ({"out": Path("/dev/null")}, "--out must be a folder or a new name, and /dev/null is a file"),
    ],
)
def test_a_bad_setting_says_what_is_allowed(arguments, text):
    with pytest.raises(ConfigurationError, match=f"^{text}$"):
        SimSettings(**arguments)


def test_a_bad_value_is_one_line():
    done = run("--failure", "often")
    said = "moshgrid: --failure must be a number, not 'often'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)

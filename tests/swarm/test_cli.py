"""The ``moshgrid`` command: in this process, and, where that matters, started as a user would."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from commands import run_command

from moshgrid.compression import codec_names

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
COMMAND = [sys.executable, "-c", "from moshgrid.swarm.cli import main; main()"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--peers", "many"], "--peers must be a whole number from 4 to 32, not 'many'"),
        (["--peers", "2"], "--peers must be a whole number from 4 to 32, not 2"),
        (["--rounds", "1.5"], "--rounds must be a whole number from 6 to 1000, not '1.5'"),
        (["--seed", "-1"], "--seed must be a whole number from 0 to 2147483647, not -1"),
        (["--kill", "7"], "--kill must be a whole number from 0 to 5 with --peers 8 and --rounds 40, not 7"),
        (["--codec", "zip"], f"--codec must be one of {', '.join(codec_names())}, not 'zip'"),
        (["--out", "/dev/null"], "--out must be a folder or a new name, and /dev/null is a file"),
    ],
)
def test_a_bad_value_is_one_line_on_stderr_and_exit_status_2(arguments: list[str], text: str) -> None:
    done = run_command("demo", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"moshgrid: {text}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["moshgrid://n@127.0.0.1:1/x"], "is not a link"),
        (["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"], "which run?"),
        (["moshgrid://n/r@127.0.0.1:1/x", "--every", "often"], "--every must be a whole number"),
        (["moshgrid://n/r@127.0.0.1:1/x", "--every", "0"], "--every must be a whole number"),
    ],
)
def test_pull_says_what_is_wrong_with_its_arguments(arguments: list[str], text: str) -> None:
    done = run_command("pull", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_option_is_exit_status_2() -> None:
    done = subprocess.run([*COMMAND, "demo", "--nope"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "No such option: --nope" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from moshgrid.swarm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "moshgrid: the command line needs typer:  pip install 'moshgrid[cli]'\n"


def test_identities_are_made_once_and_shown(tmp_path: Path) -> None:
    file = tmp_path / "peer.key"
    made = run_command("id", "new", str(file), "--json")
    value = json.loads(made.stdout)
    jsonschema.validate(value, json.loads((SCHEMAS / "id.schema.json").read_text()))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run_command("id", "show", str(file)).stdout.strip() == value["peer_id"]
    again = run_command("id", "new", str(file))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert run_command("id", "show", str(tmp_path / "none")).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_keeps_its_identity_and_leaves_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    schema = json.loads((SCHEMAS / "node.schema.json").read_text())
    said = []
    for _ in range(2):
        arguments = ["--listen", "/ip4/127.0.0.1/tcp/0", "--identity", str(tmp_path / "k"), "--network", "n"]
        with subprocess.Popen(
            [*COMMAND, "node", *arguments, "--relay", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as node:
            assert node.stdout is not None and node.stderr is not None
            said.append(json.loads(node.stdout.readline()))
            node.send_signal(number)
            assert node.wait(timeout=20) == 0, node.stderr.read()
            assert node.stderr.read() == ""
    for value in said:
        jsonschema.validate(value, schema)
        assert value["link"].startswith("moshgrid://n@127.0.0.1:")
    assert said[0]["peer_id"] == said[1]["peer_id"]

"""``moshgrid doctor``: every finding in words, with its exit status, and the command itself."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import jsonschema
import pytest
from commands import run_command

from moshgrid.p2p import Node
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.reachability import Reachability
from moshgrid.swarm.doctor_findings import Facts, diagnose

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schemas/doctor.schema.json").read_text())
ME, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))
HOME, OUTSIDE = f"/ip4/192.168.1.2/tcp/31337/p2p/{ME}", ("61.1.1.1", 31337)
LINK = f"/ip4/62.1.1.1/tcp/31337/p2p/{OTHER}"
RELAYED = f"{LINK}/p2p-circuit/p2p/{ME}"


def findings(**facts):
    found = diagnose(Facts(**{"listening": [HOME], "own_hosts": ["192.168.1.2"], **facts}))
    jsonschema.validate(json.loads(json.dumps(found.to_dict())), SCHEMA)
    assert found.summary == found.lines()[-1]
    return found


def reached(verdict, places=(), why="because", improve=""):
    return {"bootstrap": [(LINK, "")], "reachability": Reachability(verdict, places, why, improve)}


def outcome_of(found, name):
    return [check.outcome for check in found.checks if check.name == name]


def test_a_peer_that_everybody_reaches_is_good():
    found = findings(**reached("public", (OUTSIDE,)), seen_at=[OUTSIDE], clock=(120.0, 5))
    assert (found.verdict, found.exit_code) == ("public", 0)
    addresses = {each.address: (each.kind, each.outcome) for each in found.addresses}
    assert addresses["/ip4/61.1.1.1/tcp/31337"] == ("outside", "good")
    assert addresses[HOME] == ("local network", "good")
    assert outcome_of(found, "clock") == ["good"] and not outcome_of(found, "relays")


@pytest.mark.parametrize("verdict", ["punchable", "private", "unknown"])
def test_a_peer_that_needs_help_says_whose_and_what_would_change_it(verdict):
    found = findings(
        **reached(verdict, (OUTSIDE,), improve="forward TCP port 31337"), seen_at=[OUTSIDE], relayed=[RELAYED]
    )
    assert (found.verdict, found.exit_code) == (verdict, 1)
    assert any(check.advice == "forward TCP port 31337" for check in found.checks)
    assert ("relayed", "help") in [(each.kind, each.outcome) for each in found.addresses]
    assert outcome_of(found, "relays") == ["good"]


def test_without_a_relay_it_says_what_is_missing():
    found = findings(**reached("private"), asked_router=True)
    assert "No relay was found" in found.summary
    assert "moshgrid node --relay" in "\n".join(found.lines())
    assert outcome_of(found, "router") == ["help"]


def test_what_is_broken_is_said_first():
    found = findings(bootstrap=[(LINK, "no answer within 10 s (filtered?)")])
    assert found.exit_code == 2 and LINK in found.summary
    assert "another network" in next(check.advice for check in found.checks if check.name == "link")
    half = findings(bootstrap=[(LINK, "refused the connection"), (LINK, "")])
    assert half.exit_code == 0 and outcome_of(half, "link") == ["help", "good"]
    late = findings(**reached("public", (OUTSIDE,)), clock=(-41_000.0, 5))
    assert late.exit_code == 2 and "41.0 s ahead of" in late.summary


def test_small_things_are_told_and_change_nothing():
    found = findings(descriptors=256, port_taken="/ip4/0.0.0.0/tcp/31337", own_hosts=["2a00:1::1"])
    assert found.exit_code == 0 and found.verdict == "local"
    text = "\n".join(found.lines())
    assert "ulimit -n" in text and "in use" in text and "--listen /ip6/::" in text


def test_the_command_tells_a_local_network_from_a_dead_link():
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="clinic") as node:
        done = run_command("doctor", "--json", "--listen", "/ip4/127.0.0.1/tcp/0", node.link)
        found = json.loads(done.stdout)
        jsonschema.validate(found, SCHEMA)
        assert done.returncode == found["exit_code"] == 0, done.stderr
        assert found["verdict"] == "local" and found["summary"].startswith("Good")
        link = node.link
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = run_command("doctor", "--listen", f"/ip4/127.0.0.1/tcp/{port}", link)
    assert done.returncode == 2 and "refused the connection" in done.stdout and "in use" in done.stdout
    assert run_command("doctor", "nonsense").returncode == 2

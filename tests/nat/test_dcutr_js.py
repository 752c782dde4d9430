"""Hole punching with js-libp2p, begun by either side: from a connection through our relay to a direct one.

js-libp2p calls from any port, never from the one that it listens on, so it meets only those to whom a plain
call gets through, one way or the other; but all words of the protocol are said.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from crowds import two_relays
from foreign_software import NotHere, js_packages
from lab import Host, Lab
from neighbourhood import Relay
from peers import Process
from routers import Nat

pytestmark = [pytest.mark.nat, pytest.mark.timeout(300)]

JS = Path(__file__).parents[1] / "interop" / "js"
PORT = 4001
SECONDS = 30.0


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return js_packages(JS / "package.json")
    except NotHere as reason:
        pytest.skip(f"js-libp2p is not here: {reason}")


@pytest.fixture(scope="module")
def relays(lab: Lab) -> list[Relay]:
    return two_relays(lab)


class JsPeer:
    """js-libp2p on a host of the lab, told what to do."""

    def __init__(self, host: Host, packages: Path, directory: Path, announce: str = "") -> None:
        shutil.copy(JS / "peer.mjs", directory)
        os.symlink(packages / "node_modules", directory / "node_modules")
        listen = [f"/ip4/0.0.0.0/tcp/{PORT}", "punch", *([announce] if announce else [])]
        self._process = host.start(
            ["node", "--experimental-websocket", "peer.mjs", "noise", *listen],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.peer = str(self._read()["peer"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def do(self, command: str, **rest: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"command": command, **rest}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert "ok" in answer, answer
        return answer["ok"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Nat.PORT_RESTRICTED, Nat.OPEN), (Nat.OPEN, Nat.PORT_RESTRICTED)]
)
@pytest.mark.parametrize("they_call", [True, False], ids=["they call", "we call"])
def test_a_relayed_connection_becomes_direct(
    lab: Lab, relays: list[Relay], packages: Path, tmp_path: Path, ours: Nat, theirs: Nat, they_call: bool
) -> None:
    """Whoever was called over the relay begins to punch: we when they call, they when we call."""
    name = f"{ours.value}-{theirs.value}-{they_call:d}"
    home, there = lab.home(f"our-{name}", ours, 5), lab.home(f"js-{name}", theirs, 6)
    us = Process(home.peer).open(bootstrap=[relay.addr for relay in relays], use_relays=True)
    assert us.call("relayed", seconds=SECONDS)["addrs"]
    public = f"/ip4/{there.address}/tcp/{PORT}" if theirs is Nat.OPEN else ""
    js = JsPeer(there.peer, packages, tmp_path, public)
    (reserved, *_) = js.do("reserve", addr=relays[0].addr)["addrs"]
    if they_call:
        js.do("dial", addr=f"{relays[0].addr}/p2p-circuit/p2p/{us.peer_id}")
    else:
        assert us.call("echo", peer=js.peer, size=1024, addrs=[f"{relays[0].addr}/p2p-circuit/p2p/{js.peer}"])
    assert us.call("direct", peer=js.peer, seconds=SECONDS)["direct"], (reserved, js.do("connections"))
    assert there.address in {address for _, address, _ in home.peer.connections()}
    assert us.call("echo", peer=js.peer, size=1 << 18)["good"]
    assert js.do("echo", peer=us.peer_id, size=1 << 16)["same"]
    addrs = [each["addr"] for each in js.do("connections") if each["peer"] == us.peer_id]
    assert any("p2p-circuit" not in addr for addr in addrs), addrs
    us.call("close")

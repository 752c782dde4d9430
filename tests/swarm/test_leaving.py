"""A training script that is told to leave by SIGTERM, as a service manager does."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.swarm import Run

SCRIPT = Path(__file__).with_name("training_process.py")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_ends_a_script_that_trains_politely_with_status_0():
    pause = threading.Event()

    def until(condition, what, tries=900):
        for _ in range(tries):
            if condition():
                return
            pause.wait(0.1)
        raise AssertionError(what)

    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], network="leaving") as node,
        DHT(node),
        Run(node, "r", torch.nn.Linear(4, 1), progress=False) as run,
        subprocess.Popen(
            [sys.executable, SCRIPT, node.link.replace("leaving@", "leaving/r@")],
            stderr=subprocess.PIPE,
            text=True,
        ) as script,
    ):
        try:
            until(lambda: run.progress.peers == 2, "it did not join")
            script.send_signal(signal.SIGTERM)
            said = script.communicate(timeout=30)[1]
            assert script.returncode == 0, said
            until(lambda: run.progress.peers == 1, "its records are still there", 200)
        finally:
            script.kill()
    lines = said.splitlines()
    assert lines[0].startswith("INFO joined r: ")
    assert "INFO asked to leave: taking records back and saying goodbye" in lines
    assert "Traceback" not in said

"""``Run`` and ``LocalSwarm`` over real libp2p on loopback, in one process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from moshgrid.dht import DHT
from moshgrid.p2p import ConfigurationError, Node, SchemaMismatch
from moshgrid.swarm import LocalSwarm, Run


def _model(value: float) -> torch.nn.Module:
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def test_a_step_averages_the_models_and_a_latecomer_gets_the_result() -> None:
    models = [_model(value) for value in (1.0, 2.0, 6.0)]
    with LocalSwarm(3, network="run-test") as swarm:

        def volunteer(i: int, node: Node) -> Run:
            run = Run(node, "r", models[i], compression="none")
            assert run.sync() is None or run.round >= 1
            for _ in range(10):
                if run.step(weight=(1.0, 1.0, 2.0)[i]).committed and run.round >= 2:
                    break
            return run

        runs = swarm.each(volunteer)
        latecomer = _model(0.0)
        with Run(swarm.add_peer(), "r", latecomer, compression="none") as late:
            snapshot = late.sync()
            assert snapshot is not None and snapshot.round == late.round >= 1
            assert snapshot.donors
            assert any(
                all(
                    torch.equal(a, b) for a, b in zip(model.parameters(), latecomer.parameters(), strict=True)
                )
                for model in models
            )
        for run in runs:
            run.close()
    for model in models:
        assert all(1.0 <= p.data.min().item() <= p.data.max().item() <= 6.0 for p in model.parameters())
    assert len({model.weight[0, 0].item() for model in models}) < 3


def test_a_run_needs_a_name_and_something_to_average() -> None:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        with pytest.raises(ConfigurationError, match="which run"):
            Run.join(node.link, model=_model(1.0))
        with pytest.raises(ConfigurationError, match="no floating-point parameters"):
            Run(node, "r", torch.nn.ReLU())


def test_a_link_may_name_the_run() -> None:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="n") as node, DHT(node):
        link = node.link.replace("moshgrid://n@", "moshgrid://n/my-run@")
        with Run.join(link, model=_model(1.0)) as run:
            assert run.run_id == "my-run"
            assert run.node.network == "n"


def test_importing_swarm_does_not_import_torch() -> None:
    code = "import sys; from moshgrid.swarm import LocalSwarm, Run; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_tells_its_rounds_and_how_far_the_swarm_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "moshgrid.swarm")
    told: list[list[int]] = [[], []]
    with LocalSwarm(2, network="run-test") as swarm:

        def volunteer(i: int, node: Node) -> Run:
            run = Run(node, "r", _model(float(i)))
            run.on_round(lambda report: told[i].append(report.round))
            run.tracker.counted(100 * (i + 1))
            tick = threading.Event()
            while run.progress.peers < 2 or len(run.averager.peers) < 2:
                tick.wait(0.02)
            assert run.step().committed
            run.tracker.entered(1)
            while run.progress.epoch < 1:
                tick.wait(0.02)
            return run

        for run in swarm.each(volunteer):
            assert run.progress.epoch == 1 and not run.progress.behind
            run.close()
            run.close()
    assert told == [[1], [1]]
    assert "joined r: " in caplog.text
    assert "round 1: averaged with 1/1 peers in " in caplog.text


def test_another_model_is_told_what_differs_and_other_runs_are_left_alone() -> None:
    with LocalSwarm(2, network="run-test") as swarm:
        with Run(swarm[0], "albert", _model(1.0)):
            with pytest.raises(SchemaMismatch) as caught:
                Run(swarm[1], "albert", torch.nn.Linear(3, 5))
            assert "your model differs from run 'albert' in 2 of 2 tensors" in str(caught.value)
            assert caught.value.diff == (
                "weight  yours (5, 3) float32  run (2, 3) float32",
                "bias  yours (5,) float32  run (2,) float32",
            )
            Run(swarm[1], "another", torch.nn.Linear(3, 5)).close()
        with Run(swarm[1], "albert", torch.nn.Linear(3, 5)):
            pass  # whoever left has no say


def test_a_name_that_cannot_be_a_run() -> None:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        for name in ("", "a/b", "x" * 49):
            with pytest.raises(ConfigurationError, match="run_id must be 1 to 48 bytes"):
                Run(node, name, _model(1.0))

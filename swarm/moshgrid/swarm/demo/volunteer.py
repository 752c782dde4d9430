"""One volunteer of the demo: a process that trains on its own images and averages with whom it finds."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moshgrid.swarm.demo.messages import BEGIN, LEAVE, Assignment, Outbox, flatten, pack_floats

if TYPE_CHECKING:
    from moshgrid.swarm.demo.training import Learner
    from moshgrid.swarm.run import Run

__all__ = ["main"]

_HOLD_SECONDS = 20.0
"""A volunteer that holds still and is not killed goes on after this time."""

_MEMBERS_TO_LOSE_ONE = 3
"""One of two is not more than half: a group of two can seal nothing when it loses one."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Reads the assignment from stdin, trains, and stays until told to leave."""
    _die_with_the_conductor()
    outbox = Outbox()
    try:
        assignment, x, y = Assignment.read(sys.stdin.buffer)
    except EOFError:
        return
    orders = _Orders()

    import torch

    from moshgrid.p2p import Node
    from moshgrid.swarm.demo.settings import GROUP_SIZE
    from moshgrid.swarm.demo.training import Learner
    from moshgrid.swarm.run import Run

    torch.set_num_threads(1)
    learner = Learner(x, y, seed=assignment.seed, order=assignment.number)
    if assignment.late:
        outbox.tell("waiting")
        orders.begin.wait()
    with (
        Node(
            listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=list(assignment.bootstrap), network=assignment.network
        ) as node,
        Run(
            node, assignment.run_id, learner.model, group_size=GROUP_SIZE, compression=assignment.codec
        ) as run,
    ):
        run.averager.add_event_sink(_Witness(outbox, assignment.hold_from_round))
        outbox.tell("ready", peer=node.peer_id)
        if assignment.late:
            _catch_up(run, outbox)
        orders.begin.wait()
        _train(run, learner, assignment, outbox)
        outbox.tell("finished", steps=learner.steps, parameters=pack_floats(flatten(learner.parameters())))
        orders.leave.wait()
    # Everything is closed. Taking PyTorch's modules apart would cost a second of CPU per volunteer.
    sys.stderr.flush()
    os._exit(0)


def _catch_up(run: Run, outbox: Outbox) -> None:
    started = time.monotonic()
    snapshot = run.sync()
    outbox.tell(
        "synced",
        round=snapshot.round if snapshot else 0,
        donors=list(snapshot.donors) if snapshot else [],
        seconds=round(time.monotonic() - started, 3),
    )


def _train(run: Run, learner: Learner, assignment: Assignment, outbox: Outbox) -> None:
    from moshgrid.swarm.demo.settings import AGREEING_ROUNDS
    from moshgrid.swarm.demo.training import TRAINING

    attempts = 0
    while run.round < assignment.rounds and attempts < 2 * assignment.rounds:
        attempts += 1
        loss = learner.train(TRAINING.steps_per_round, run.round / assignment.rounds)
        _average(run, learner, outbox, loss)
    for _ in range(AGREEING_ROUNDS):
        if not _average(run, learner, outbox, None):
            break  # the others are done


def _average(run: Run, learner: Learner, outbox: Outbox, loss: float | None) -> bool:
    report = run.step(weight=float(learner.images))
    outbox.tell(
        "round",
        loss=loss,
        steps=learner.steps,
        report=report.to_dict(),
        parameters=pack_floats(flatten(learner.parameters())),
    )
    return report.committed


class _Orders:
    """Follows stdin in a thread of its own; its end without ``leave`` means that the conductor is gone."""

    def __init__(self) -> None:
        self.begin = threading.Event()
        self.leave = threading.Event()
        threading.Thread(target=self._follow, name="orders", daemon=True).start()

    def _follow(self) -> None:
        for line in sys.stdin.buffer:
            if line == BEGIN:
                self.begin.set()
            elif line == LEAVE:
                self.leave.set()
                return
        os._exit(1)


class _Witness:
    """Passes events on, and holds still in the exchange in which this process is to be killed.

    It holds when it has averaged its part and is about to send it: everybody has delivered to it by
    then, and nobody can seal the round before it is found lost and its part was done again.
    """

    def __init__(self, outbox: Outbox, hold_from_round: int | None) -> None:
        self._outbox = outbox
        self._hold_from_round = hold_from_round
        self._members = 0
        self._started_at = 0.0

    def __call__(self, entry: Mapping[str, Any]) -> None:
        self._outbox.tell("event", entry=dict(entry))
        if entry["event"] == "manifest":
            self._members = len(entry["members"])
        elif entry["event"] == "exchange_started":
            self._started_at = entry["t"]
        elif (
            self._hold_from_round is not None
            and entry["event"] == "result_sent"
            and entry["round"] >= self._hold_from_round
            and self._members >= _MEMBERS_TO_LOSE_ONE
        ):
            self._hold_from_round = None
            self._outbox.tell("holding", round=entry["round"], group=entry.get("group"), t=self._started_at)
            # On purpose in the event loop's thread: nothing of this process moves from here on.
            time.sleep(_HOLD_SECONDS)


def _die_with_the_conductor() -> None:
    """Asks the kernel (on Linux) to end this process with its parent, however that one ends."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (AttributeError, OSError):
        return  # elsewhere the end of stdin does it
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()

"""The demo's story: who starts, who comes late, who is killed when, and how it ends."""

from __future__ import annotations

import json
import os
import queue
import secrets
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.p2p.errors import MoshgridError
from moshgrid.swarm.demo.chronicle import Chronicle, Kill, LateJoin
from moshgrid.swarm.demo.comparison import Comparison, Contender, compare
from moshgrid.swarm.demo.digits import Digits, Share, deal, load
from moshgrid.swarm.demo.messages import Assignment, unpack_floats
from moshgrid.swarm.demo.processes import Crew
from moshgrid.swarm.demo.settings import DemoSettings
from moshgrid.swarm.demo.table import open_view

__all__ = ["Conductor", "DemoFailed"]

_LATE = 1
"""The number of the volunteer that joins late. The ones to be killed are the last ones."""

_START_SECONDS = 120.0
_SILENCE_SECONDS = 60.0


class DemoFailed(MoshgridError):
    """The demo could not be brought to its end; the text says why."""


class Conductor:
    """Runs one demo. It holds the bootstrap node, and takes no part in training or averaging."""

    def __init__(self, settings: DemoSettings, out: TextIO) -> None:
        self.settings = settings
        self.chronicle = Chronicle()
        self.digits: Digits = load()
        self.shares: list[Share] = deal(self.digits.train_y, settings.peers, settings.seed)
        self.network = f"demo-{secrets.token_hex(4)}"
        victims = range(settings.peers, settings.peers - settings.kill, -1)
        self._hold_rounds = dict(zip(victims, settings.kill_rounds(), strict=True))
        self._view = open_view(out, settings.peers)
        self._ready: set[int] = set()
        self._waiting: set[int] = set()
        self._ended: set[int] = set()
        self._finished: dict[int, npt.NDArray[np.float32]] = {}
        self._late_called = False

    def run(self) -> Comparison:
        """From the first process to the last; what remains are the chronicle and the comparison."""
        with Crew() as crew, self._view:
            crew.on_holding(lambda number, message: self._kill(crew, number, message))
            for number in range(1, self.settings.peers + 1):
                crew.start(number)
            with Node(listen=["/ip4/127.0.0.1/tcp/0"], network=self.network) as node, DHT(node):
                self._hand_out(crew, node.addrs)
                self._until(crew, self._all_ready, _START_SECONDS)
                self._view.note("all are ready: training begins")
                for number in sorted(self._ready):
                    crew.begin(number)
                    self._view.state(number, "training")
                self._until(crew, self._all_finished, _SILENCE_SECONDS)
                self._view.note("training is over; downloading the swarm's model as a newcomer would")
                comparison = self._compare(node)
                self._view.note("the comparison is trained; the volunteers leave")
                crew.dismiss()
                self._view.note("all have left")
                self._drain(crew)
        return comparison

    def survivors(self) -> list[int]:
        """The volunteers that stayed to the end."""
        return sorted(self._finished)

    def _hand_out(self, crew: Crew, bootstrap: tuple[str, ...]) -> None:
        for number, seat in crew.seats.items():
            share = self.shares[number - 1].indices
            assignment = Assignment(
                number=number,
                bootstrap=bootstrap,
                network=self.network,
                run_id="digits",
                seed=self.settings.seed,
                rounds=self.settings.rounds,
                codec=self.settings.codec,
                late=number == _LATE,
                hold_from_round=self._hold_rounds.get(number),
            )
            assert seat.process.stdin is not None
            try:
                assignment.write(seat.process.stdin, self.digits.train_x[share], self.digits.train_y[share])
            except BrokenPipeError:
                continue  # it ended already; the reader's message says so

    def _until(self, crew: Crew, done: Callable[[], bool], silence: float) -> None:
        last = time.monotonic()
        while not done():
            try:
                number, message = crew.inbox.get(timeout=0.25)
            except queue.Empty:
                if time.monotonic() - last > silence:
                    raise DemoFailed(
                        f"no volunteer has said anything for {silence:.0f} s: giving up"
                    ) from None
                continue
            last = time.monotonic()
            self._heard(crew, number, message)

    def _drain(self, crew: Crew) -> None:
        while not crew.inbox.empty():
            number, message = crew.inbox.get()
            if message["kind"] == "event":
                self._heard(crew, number, message)

    def _heard(self, crew: Crew, number: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "waiting":
            self._waiting.add(number)
            self._view.state(number, "late: waits outside")
        elif kind == "ready":
            self._ready.add(number)
            self.chronicle.peers[message["peer"]] = number
            self._view.state(number, "ready" if number != _LATE else "joining")
        elif kind == "event":
            self.chronicle.heard_event(message["entry"])
        elif kind == "synced":
            self._note_late_join(number, message)
        elif kind == "round":
            self._note_round(crew, number, message)
        elif kind == "finished":
            self._finished[number] = unpack_floats(message["parameters"])
            self._view.state(number, "finished")
        elif kind == "ended":
            self._note_end(crew, number, message["code"])

    def _note_round(self, crew: Crew, number: int, message: dict[str, Any]) -> None:
        step = self.chronicle.heard_round(number, message)
        self._view.stepped(number, self.chronicle.part_of(step), step.round)
        if not self._late_called and step.round >= self.settings.late_join_round and self._waiting:
            self._late_called = True
            self._view.note(f"volunteer {_LATE} joins late")
            crew.begin(_LATE)

    def _note_late_join(self, number: int, message: dict[str, Any]) -> None:
        donors = self.chronicle.names(message["donors"])
        self.chronicle.late_join = LateJoin(number, message["round"], tuple(donors), message["seconds"])
        self._view.state(number, "training")
        self._view.note(
            f"volunteer {number} got the state of round {message['round']} "
            f"from {', '.join(donors) or 'nobody'} in {message['seconds']:.1f} s"
        )

    def _note_end(self, crew: Crew, number: int, code: int) -> None:
        self._ended.add(number)
        if any(kill.volunteer == number for kill in self.chronicle.kills):
            self._view.state(number, "killed")
            return
        said = "\n".join(crew.seats[number].complaints)
        self._view.state(number, f"ended by itself (exit status {code})")
        if number not in self._ready or len(self._ended) >= self.settings.peers - 1:
            raise DemoFailed(f"volunteer {number} ended by itself (exit status {code}):\n{said}")

    def _kill(self, crew: Crew, number: int, message: dict[str, Any]) -> None:
        killed_at = crew.kill(number)
        kill = Kill(number, message["round"], message["group"], message["t"], killed_at)
        self.chronicle.kills.append(kill)
        peer = next((p for p, n in self.chronicle.peers.items() if n == number), "")
        entry = {"t": killed_at, "peer": peer, "event": "killed", "group": kill.group, "round": kill.round}
        self.chronicle.events.append(entry)
        _append_to_users_log(entry)
        self._view.note(f"volunteer {number} was killed (SIGKILL) in the middle of round {kill.round}")

    def _all_ready(self) -> bool:
        return len(self._ready | self._waiting) == self.settings.peers

    def _all_finished(self) -> bool:
        return len(self._ended | set(self._finished)) == self.settings.peers

    def _compare(self, node: Node) -> Comparison:
        steps = self.chronicle.steps_taken()
        contenders = [
            Contender(number, self.shares[number - 1].indices, steps[number], self._finished.get(number))
            for number in sorted(steps)
        ]
        return compare(node, self.settings, self.digits, contenders)


def _append_to_users_log(entry: dict[str, Any]) -> None:
    """The volunteers write their events to MOSHGRID_EVENTS themselves; a kill only we can tell."""
    path = os.environ.get("MOSHGRID_EVENTS")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")
    except OSError:
        return

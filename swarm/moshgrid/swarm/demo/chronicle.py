"""What happened in a demo, as the conductor heard it, and what follows from it round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moshgrid.swarm.demo.messages import unpack_floats

__all__ = ["Chronicle", "Kill", "LateJoin", "Step"]


@dataclass(frozen=True)
class Step:
    """One volunteer's step: local training, then a round with whom it found."""

    volunteer: int
    report: Mapping[str, Any]
    loss: float | None
    """Mean training loss on its own images before averaging; None where it did not train."""
    steps: int
    parameters: npt.NDArray[np.float32]
    """Its model after the round."""

    @property
    def round(self) -> int:
        """The number of the round."""
        return int(self.report["round"])


@dataclass
class Kill:
    """A volunteer ended with SIGKILL in the middle of a round."""

    volunteer: int
    round: int
    group: str
    exchange_started_at: float
    killed_at: float
    sealed_at: float | None = None
    """When the first of the survivors sealed that round; None when they could not."""

    @property
    def mid_round(self) -> bool:
        """True when the kill fell between ``exchange_started`` and ``sealed``."""
        return self.sealed_at is not None and self.exchange_started_at < self.killed_at < self.sealed_at


@dataclass(frozen=True)
class LateJoin:
    """A volunteer that came when the training was under way."""

    volunteer: int
    round: int
    """The round of the state that it got."""
    donors: tuple[str, ...]
    seconds: float


@dataclass
class Chronicle:
    """Everything the final report and the picture are made of."""

    peers: dict[str, int] = field(default_factory=dict)
    """The volunteer's number by peer id."""
    steps: list[Step] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    late_join: LateJoin | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def heard_round(self, volunteer: int, message: Mapping[str, Any]) -> Step:
        """Notes a volunteer's step."""
        step = Step(
            volunteer,
            message["report"],
            message["loss"],
            message["steps"],
            unpack_floats(message["parameters"]),
        )
        self.steps.append(step)
        return step

    def heard_event(self, entry: dict[str, Any]) -> None:
        """Notes an averaging event; a seal may be that of a round in which somebody was killed."""
        self.events.append(entry)
        if entry["event"] != "sealed":
            return
        for kill in self.kills:
            if kill.group == entry.get("group") and (kill.sealed_at is None or entry["t"] < kill.sealed_at):
                kill.sealed_at = entry["t"]

    def steps_taken(self) -> dict[int, int]:
        """Local steps by volunteer, as last heard."""
        return {step.volunteer: step.steps for step in self.steps}

    def names(self, peers: Sequence[str]) -> list[str]:
        """Volunteers' numbers for peer ids, as text, in order."""
        numbers = sorted(self.peers[p] for p in peers if p in self.peers)
        return [str(n) for n in numbers] + [f"…{p[-4:]}" for p in peers if p not in self.peers]

    def rounds(self) -> list[dict[str, Any]]:
        """One entry per round: mean loss, disagreement, and each volunteer's part in it."""
        by_round: dict[int, dict[int, Step]] = {}
        for step in self.steps:
            by_round.setdefault(step.round, {})[step.volunteer] = step
        return [self._round(number, by_round[number]) for number in sorted(by_round)]

    def _round(self, number: int, steps: Mapping[int, Step]) -> dict[str, Any]:
        losses = [s.loss for s in steps.values() if s.loss is not None]
        return {
            "round": number,
            "loss": round(float(np.mean(losses)), 5) if losses else None,
            "disagreement": _disagreement([s.parameters for s in steps.values()]),
            "peers": {str(v): self.part_of(steps[v]) for v in sorted(steps)},
        }

    def part_of(self, step: Step) -> dict[str, Any]:
        """A volunteer's part in a round, as it stands in the report."""
        report = step.report
        return {
            "loss": round(step.loss, 5) if step.loss is not None else None,
            "steps": step.steps,
            "group": self.names(report["group"]),
            "committed": report["committed"],
            "reason": report["reason"],
            "dropped": {self.names([p])[0]: why for p, why in report["dropped"].items()},
            "completeness": report["completeness"],
            "bytes_sent": report["bytes_sent"],
            "bytes_received": report["bytes_received"],
            "seconds": round(report["seconds_matching"] + report["seconds_reducing"], 4),
        }


def _disagreement(models: Sequence[npt.NDArray[np.float32]]) -> float | None:
    """How far apart models are: root mean square distance from their mean, relative to its length."""
    if len(models) < 2:
        return None
    stack = np.stack(models).astype(np.float64)
    mean = stack.mean(axis=0)
    distance = np.sqrt(((stack - mean) ** 2).sum(axis=1).mean())
    return float(f"{distance / np.linalg.norm(mean):.4e}")

"""What the demo can be asked for, checked before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from moshgrid.p2p.errors import ConfigurationError

__all__ = ["AGREEING_ROUNDS", "GROUP_SIZE", "PEERS", "ROUNDS", "SEEDS", "DemoSettings"]

GROUP_SIZE = 4

AGREEING_ROUNDS = 4
"""Rounds at the end in which nobody trains, so that all come to hold the same model."""

PEERS = range(4, 33)
ROUNDS = range(6, 1001)
SEEDS = range(2**31)

_PEERS_TO_KEEP = 3
"""Three volunteers hold twelve hands of classes, so all ten classes: fewer could lose one."""


@dataclass(frozen=True)
class DemoSettings:
    """Raises ConfigurationError, in one line that says what is allowed."""

    seed: int = 0
    peers: int = 8
    rounds: int = 40
    codec: str = "float16"
    kill: int = 2
    out: Path = Path("demo-report")
    codecs: tuple[str, ...] = ("none", "float16")
    """The codecs that are installed."""

    def __post_init__(self) -> None:
        _within("--seed", self.seed, SEEDS)
        _within("--peers", self.peers, PEERS)
        _within("--rounds", self.rounds, ROUNDS)
        _within("--kill", self.kill, range(self.most_kills + 1), self._why_so_few_kills())
        if self.codec not in self.codecs:
            raise ConfigurationError(f"--codec must be one of {', '.join(self.codecs)}, not {self.codec!r}")
        if self.out.exists() and not self.out.is_dir():
            raise ConfigurationError(f"--out must be a folder or a new name, and {self.out} is a file")
        nearest = next(folder for folder in (self.out, *self.out.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ConfigurationError(f"--out must be in a folder that can be written, and {nearest} cannot")

    @property
    def most_kills(self) -> int:
        """As many as leave every class a holder and give every kill a round of its own."""
        return min(self.peers - _PEERS_TO_KEEP, len(self._rounds_for_kills()))

    def kill_rounds(self) -> tuple[int, ...]:
        """The round from which each victim is to be killed: spread over the middle of the run."""
        window = self._rounds_for_kills()
        return tuple(window[(2 * i + 1) * len(window) // (2 * self.kill)] for i in range(self.kill))

    @property
    def late_join_round(self) -> int:
        """After this round the late volunteer joins."""
        return self.rounds // 3

    def _rounds_for_kills(self) -> range:
        return range(self.rounds * 2 // 5, max(self.rounds * 2 // 5 + 1, self.rounds * 4 // 5 + 1))

    def _why_so_few_kills(self) -> str:
        return f" with --peers {self.peers} and --rounds {self.rounds}"


def _within(option: str, value: int, allowed: range, when: str = "") -> None:
    if value not in allowed:
        raise ConfigurationError(
            f"{option} must be a whole number from {allowed.start} to {allowed.stop - 1}{when}, not {value}"
        )

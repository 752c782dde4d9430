"""What a simulation can be asked for, checked before anything starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from moshgrid.p2p.errors import ConfigurationError

__all__ = ["SimSettings"]

_WHOLE = {
    "peers": range(4, 4097),
    "group_size": range(2, 65),
    "rounds": range(1, 1001),
    "restarts": range(1, 1001),
    "seed": range(2**31),
}


@dataclass(frozen=True)
class SimSettings:
    """Raises ConfigurationError, in one line that says what is allowed."""

    peers: int = 1024
    group_size: int = 32
    rounds: int = 50
    failure: float = 0.01
    """The probability that a peer misses a round."""
    restarts: int = 40
    seed: int = 0
    out: Path = Path("sim-report")

    def __post_init__(self) -> None:
        for name, allowed in _WHOLE.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} must be a whole number from {allowed.start} to "
                    f"{allowed.stop - 1}, not {value}"
                )
        if not (math.isfinite(self.failure) and 0 <= self.failure <= 0.9):
            raise ConfigurationError(f"--failure must be a number from 0 to 0.9, not {self.failure}")
        if self.out.exists() and not self.out.is_dir():
            raise ConfigurationError(f"--out must be a folder or a new name, and {self.out} is a file")

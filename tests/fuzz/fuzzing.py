"""Fuzzing: what a target is, where its corpus lies, and mutations that a seed replays.

A file ``targets_*.py`` in this directory has ``TARGETS``, by name. The corpus of target NAME is the files in
``corpus/NAME``. ``run.py`` runs one target long, ``test_fuzz.py`` each of them shortly.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Target", "all_targets", "check", "corpus_of", "mutations"]

HERE = Path(__file__).resolve().parent
MAX_BYTES = 8192
"""Inputs do not grow beyond this."""

_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


@dataclass(frozen=True)
class Target:
    """One parser that strangers feed."""

    run: Callable[[bytes], None]
    """Parses one input. It may raise what ``allowed`` names; whatever else it raises is a bug."""
    allowed: tuple[type[Exception], ...]
    """How the parser refuses."""


def all_targets() -> dict[str, Target]:
    """Every target of every ``targets_*.py``, by name."""
    found: dict[str, Target] = {}
    for file in sorted(HERE.glob("targets_*.py")):
        for name, target in importlib.import_module(file.stem).TARGETS.items():
            assert name not in found, f"two targets are called {name}"
            found[name] = target
    return found


def check(target: Target, data: bytes) -> None:
    """Runs one input; what the target may not raise comes out."""
    try:
        target.run(data)
    except target.allowed:
        pass


def corpus_of(name: str) -> list[bytes]:
    """The inputs that mutations start from, in a fixed order."""
    return [file.read_bytes() for file in sorted((HERE / "corpus" / name).iterdir()) if file.is_file()]


def mutations(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Endlessly many inputs: first the corpus itself, then changed and crossed, the same for the same seed."""
    yield b""
    yield from corpus
    chance = random.Random(seed)
    pool = [data[:MAX_BYTES] for data in corpus] or [bytes(range(256))]
    while True:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            _mutate(data, pool, chance)
        yield bytes(data[:MAX_BYTES])


def _mutate(data: bytearray, pool: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(8)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << chance.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = chance.choice(_EDGES)
    elif kind == 2:
        data[at:at] = chance.randbytes(chance.randrange(1, 9))
    elif kind == 3:
        del data[at : at + chance.randrange(1, 17)]
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        piece = bytes(data[at : at + chance.randrange(1, 65)])
        data[at:at] = piece * chance.randrange(1, 5)
    elif kind == 6:
        width = chance.choice((2, 4, 8))
        value = chance.choice((0, 1, (1 << 8 * width) - 1, 1 << 8 * width - 1, len(data)))
        data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, chance.choice(("big", "little")))
    else:
        other = chance.choice(pool)
        data[at:] = other[chance.randrange(len(other) + 1) :]

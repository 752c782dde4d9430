"""What the conductor and its volunteers say to each other over the volunteers' stdin and stdout.

To a volunteer go one header line, its images as ``npz`` bytes, and the lines ``begin`` and ``leave``.
From it come JSON lines, each with a ``kind``. Nothing of it touches the disk.
"""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["BEGIN", "LEAVE", "Assignment", "Outbox", "flatten", "pack_floats", "unpack_floats"]

BEGIN = b"begin\n"
LEAVE = b"leave\n"

_MAX_HEADER = 65536


@dataclass(frozen=True)
class Assignment:
    """All that a volunteer is told: one bootstrap address and its own task."""

    number: int
    bootstrap: tuple[str, ...]
    network: str
    run_id: str
    seed: int
    rounds: int
    codec: str
    late: bool = False
    hold_from_round: int | None = None
    """From this round on, hold still when an exchange has started: the conductor ends this process then."""

    def write(self, pipe: IO[bytes], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
        """Sends the assignment and the volunteer's images."""
        file = io.BytesIO()
        np.savez(file, x=x, y=y)
        header = {**asdict(self), "npz_bytes": file.tell()}
        pipe.write(json.dumps(header).encode() + b"\n" + file.getvalue())
        pipe.flush()

    @classmethod
    def read(cls, pipe: IO[bytes]) -> tuple[Assignment, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """What ``write`` sent. Raises EOFError when the conductor is gone."""
        line = pipe.readline(_MAX_HEADER)
        if not line.endswith(b"\n"):
            raise EOFError
        header = json.loads(line)
        size = header.pop("npz_bytes")
        data = pipe.read(size)
        if len(data) != size:
            raise EOFError
        header["bootstrap"] = tuple(header["bootstrap"])
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(**header), arrays["x"], arrays["y"]


class Outbox:
    """A volunteer's side of the JSON lines; may be used from several threads."""

    def __init__(self) -> None:
        # Whatever else prints to stdout must not end up between the lines.
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def tell(self, kind: str, **fields: Any) -> None:
        """Sends one line. A conductor that is gone is noticed at stdin, not here."""
        data = memoryview(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except BrokenPipeError:
                return


def flatten(arrays: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """All elements of ``arrays`` in one."""
    return np.concatenate([a.ravel() for a in arrays]).astype(np.float32)


def pack_floats(values: npt.NDArray[np.float32]) -> str:
    """A float32 array as text."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpack_floats(text: str) -> npt.NDArray[np.float32]:
    """The array of ``pack_floats``."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)

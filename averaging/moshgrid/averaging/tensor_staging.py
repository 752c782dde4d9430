"""Staging: tensors of a GPU through two page-locked buffers, so that one is copied while the other is used.

Only page-locked memory is copied at the full speed of the bus and beside other work.
"""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Staging"]

_CHUNK_BYTES = 16 * 1024 * 1024


class Staging:
    """Two buffers in CPU memory, ``pinned`` (page-locked) for a CUDA device. Takes turns among threads."""

    def __init__(self, torch: Any, chunk_bytes: int = _CHUNK_BYTES, pinned: bool = True) -> None:
        self._torch = torch
        self._chunk_bytes = chunk_bytes
        self._buffers = [torch.empty(chunk_bytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._lock = threading.Lock()

    def read(self, source: Any, target: Any) -> None:
        """Copies a tensor of a device into the flat CPU tensor ``target``, of any float type."""
        with self._lock:
            self._finish(source.device)  # what is still being computed, on whatever stream
            flat = source.reshape(-1)
            waiting: tuple[Any, Any, Any] | None = None
            for index, (start, stop) in enumerate(self._chunks(flat)):
                buffer = self._buffers[index % 2].view(flat.dtype)[: stop - start]
                buffer.copy_(flat[start:stop], non_blocking=_has_events(source.device))
                copied = self._mark(source.device)
                if waiting is not None:
                    self._take(*waiting)
                waiting = (copied, buffer, target[start:stop])
            if waiting is not None:
                self._take(*waiting)

    def write(self, source: Any, target: Any) -> None:
        """Copies the CPU tensor ``source`` into a tensor of a device, and waits until it is there.

        Element by element in C order, whatever the shapes.
        """
        source = source.reshape(-1)
        with self._lock:
            self._finish(target.device)
            flat = target if target.is_contiguous() else self._torch.empty_like(target).contiguous()
            flat = flat.view(-1)
            copied: list[Any] = [None, None]
            for index, (start, stop) in enumerate(self._chunks(flat)):
                buffer = self._buffers[index % 2].view(flat.dtype)[: stop - start]
                if copied[index % 2] is not None:
                    copied[index % 2].synchronize()
                buffer.copy_(source[start:stop])
                flat[start:stop].copy_(buffer, non_blocking=_has_events(target.device))
                copied[index % 2] = self._mark(target.device)
            if not target.is_contiguous():
                target.copy_(flat.view(target.shape))
            self._finish(target.device)

    def _chunks(self, flat: Any) -> list[tuple[int, int]]:
        step = self._chunk_bytes // flat.element_size()
        return [(start, min(start + step, flat.numel())) for start in range(0, flat.numel(), step)]

    def _take(self, copied: Any, buffer: Any, target: Any) -> None:
        if copied is not None:
            copied.synchronize()
        target.copy_(buffer)

    def _mark(self, device: Any) -> Any:
        """An event that comes when the device has done what it was told so far; None where it has."""
        if not _has_events(device):
            return None
        event = self._torch.cuda.Event()
        event.record(self._torch.cuda.current_stream(device))
        return event

    def _finish(self, device: Any) -> None:
        if device.type == "cuda":
            self._torch.cuda.synchronize(device)
        elif device.type == "mps":
            self._torch.mps.synchronize()


def _has_events(device: Any) -> bool:
    """False for devices whose copies are waited for."""
    return bool(device.type == "cuda")

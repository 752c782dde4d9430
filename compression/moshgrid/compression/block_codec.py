"""Blocks of 128 that share a float16 scale, then a signed code a value: what ``int8`` and ``int4`` share."""

from __future__ import annotations

import numpy as np

from moshgrid.compression import numpy_kernels
from moshgrid.compression.block_scales import BLOCK, choose_scales, count_blocks, steps_of
from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import Halves

__all__ = ["BlockCodec"]

_CHUNK = 1024
"""Blocks that are read a second time while they are still in the processor's cache."""


class BlockCodec(Float32Codec):
    """Codes of ``bits`` between ±``levels``; off by at most half a step."""

    def __init__(self, name: str, bits: int, levels: int) -> None:
        self.name = name
        self._bits, self._levels = bits, levels
        self.properties = CodecProperties(
            bits_per_value=bits + 16 / BLOCK,
            peak_error=0.5005 / levels,
            absolute_error=(1 + 1 / levels) * 2.0**-25,
            block=BLOCK,
        )

    def _length(self, count: int) -> int:
        return 2 * count_blocks(count) + self._code_bytes(count)

    def _code_bytes(self, count: int) -> int:
        return -(-count * self._bits // 8)

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        whole = values.size // BLOCK
        scales, codes = self._fields(data, values.size)
        saturated = 0
        for first in range(0, whole, _CHUNK):
            last = min(first + _CHUNK, whole)
            blocks = values[first * BLOCK : last * BLOCK].reshape(-1, BLOCK)
            target = codes[self._code_bytes(first * BLOCK) : self._code_bytes(last * BLOCK)]
            saturated += self._write_blocks(blocks, scales[first:last], target.reshape(last - first, -1))
        rest = values[whole * BLOCK :]
        if rest.size:
            block, target = np.zeros((1, BLOCK), np.float32), np.empty((1, self._code_bytes(BLOCK)), np.uint8)
            block[0, : rest.size] = rest
            saturated += self._write_blocks(block, scales[whole:], target)
            codes[self._code_bytes(whole * BLOCK) :] = target[0, : self._code_bytes(rest.size)]
        return saturated

    def _write_blocks(self, blocks: FloatVector, scales: Halves, target: ByteVector) -> int:
        peaks = np.empty(len(blocks), np.float32)
        numpy_kernels.block_peaks(blocks, peaks)
        blocks, saturated = saturate(blocks, float(peaks.max()), MAX_VALUE)
        if saturated:
            np.minimum(peaks, np.float32(MAX_VALUE), out=peaks)
        self._encode(blocks, choose_scales(peaks, self._levels, scales), target)
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        whole = out.size // BLOCK
        scales, codes = self._fields(data, out.size)
        steps = steps_of(scales, self._levels)
        body = self._code_bytes(whole * BLOCK)
        self._decode(
            codes[:body].reshape(whole, -1 if whole else self._code_bytes(BLOCK)),
            steps[:whole],
            out[: whole * BLOCK].reshape(-1, BLOCK),
        )
        rest = out[whole * BLOCK :]
        if rest.size:
            source, block = np.zeros((1, self._code_bytes(BLOCK)), np.uint8), np.empty((1, BLOCK), np.float32)
            source[0, : codes.size - body] = codes[body:]
            self._decode(source, steps[whole:], block)
            rest[...] = block[0, : rest.size]

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        steps_of(self._fields(data, room.size)[0], self._levels)

    def _fields(self, data: ByteVector, count: int) -> tuple[Halves, ByteVector]:
        """The scales and the codes."""
        blocks = count_blocks(count)
        return data[: 2 * blocks].view("<u2"), data[2 * blocks :]

    def _encode(self, blocks: FloatVector, factors: FloatVector, codes: ByteVector) -> None:
        """Fills ``codes``, a row for each block."""
        raise NotImplementedError

    def _decode(self, codes: ByteVector, steps: FloatVector, blocks: FloatVector) -> None:
        """Fills ``blocks`` from a row of codes each."""
        raise NotImplementedError

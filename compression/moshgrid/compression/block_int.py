"""Block integers of 2 to 8 bits between each block's smallest and largest value, with spikes kept aside.

From Flash Communication (2024) and, for spike reserving and bit splitting, its second version (2025):
the smallest and the largest value of a block travel as float16 with their positions, and the others are
rounded within what is left of the range. The codecs ``spike2`` … ``spike8`` have blocks of 128.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moshgrid.compression.bit_planes import pack, packed_bytes, unpack
from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecError,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import peak_of

__all__ = ["BlockInt"]

_NOT_FINITE = 0x7C00
_SIGN = 0x8000


class BlockInt(Float32Codec):
    """``bits`` 2 to 8, ``block`` 16 to 256 elements and a power of two.

    Values that are not spikes are off by at most half a step of their block, spikes by a float16's
    rounding. Per block: zero and half the span as float16; with spikes also the two values as float16
    and their positions as bytes. Then the codes of all blocks; an incomplete block is filled up.
    """

    def __init__(self, bits: int, block: int = 128, spikes: bool = True) -> None:
        if not 2 <= bits <= 8 or block not in (16, 32, 64, 128, 256):
            raise ValueError("bits must be 2 to 8 and block 16, 32, 64, 128 or 256")
        self.name = f"{'spike' if spikes else 'range'}{bits}" + ("" if block == 128 else f"-{block}")
        self._bits, self._block, self._spikes = bits, block, spikes
        self._half_levels = np.float32(((1 << bits) - 1) / 2)
        self._overhead = 10 if spikes else 4
        self.properties = CodecProperties(
            bits_per_value=bits + 8 * self._overhead / block,
            peak_error=1.003 / ((1 << bits) - 1) + 2.0**-10,
            absolute_error=2.0**-23,
            block=block,
        )

    def _length(self, count: int) -> int:
        blocks = -(-count // self._block)
        return blocks * self._overhead + packed_bytes(blocks * self._block, self._bits)

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        values, saturated = saturate(values, peak_of(values), MAX_VALUE)
        if not values.size:
            return saturated
        blocks = self._filled_up(values)
        count = len(blocks)
        fields = data[: count * self._overhead].view("<u2").reshape(-1, count)
        rows = np.arange(count)
        if self._spikes:
            low, high = blocks.argmin(axis=1), blocks.argmax(axis=1)
            fields[2] = blocks[rows, low].astype("<f2").view("<u2")
            fields[3] = blocks[rows, high].astype("<f2").view("<u2")
            fields[4] = low | high << 8
            # Of the first three elements one is no spike: it stands in for both.
            other = np.where((low != 0) & (high != 0), 0, np.where((low != 1) & (high != 1), 1, 2))
            blocks[rows, low] = blocks[rows, high] = blocks[rows, other]
        least, most = blocks.min(axis=1), blocks.max(axis=1)
        slack = (most - least) / (16 * self._half_levels)
        zero = _rounded(least, slack, np.float16(-np.inf))
        half_span = np.maximum(_rounded((most - zero) / 2, slack / 2, np.float16(np.inf)), 0)
        fields[0] = zero.astype("<f2").view("<u2")
        fields[1] = half_span.astype("<f2").view("<u2")
        factors = np.zeros_like(half_span)
        np.divide(self._half_levels, half_span, out=factors, where=half_span > 0)
        blocks -= zero[:, None]
        blocks *= factors[:, None]
        codes = np.rint(blocks, out=blocks).astype(np.uint8)
        if self._spikes:
            codes[rows, low] = codes[rows, high] = 0
        pack(codes.reshape(-1), self._bits, data[count * self._overhead :])
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        count = -(-out.size // self._block)
        fields = data[: count * self._overhead].view("<u2").reshape(-1, count) if count else None
        if fields is None:
            return
        floats = fields[[0, 2, 3]] if self._spikes else fields[:1]
        if (floats & ~np.uint16(_SIGN) >= _NOT_FINITE).any() or (fields[1] >= _NOT_FINITE).any():
            raise CodecError(f"a {self.name} block has a value that is not finite or a negative span")
        zero, half_span = (field.view("<f2").astype(np.float32) for field in fields[:2])
        codes = unpack(data[count * self._overhead :], self._bits, count * self._block)
        blocks = codes.reshape(count, self._block) * (half_span / self._half_levels)[:, None]
        blocks += zero[:, None]
        if self._spikes:
            rows, low, high = np.arange(count), fields[4] & 255, fields[4] >> 8
            if max(int(low.max()), int(high.max())) >= self._block:
                raise CodecError(f"a {self.name} block has a spike outside of it")
            blocks[rows, high] = fields[3].view("<f2")
            blocks[rows, low] = fields[2].view("<f2")
        out[...] = blocks.reshape(-1)[: out.size]

    def _filled_up(self, values: FloatVector) -> FloatVector:
        """A copy in whole blocks; the last value is repeated."""
        count = -(-values.size // self._block) * self._block
        filled = np.full(count, values[-1], np.float32)
        filled[: values.size] = values
        return filled.reshape(-1, self._block)


def _rounded(values: FloatVector, slack: FloatVector, towards: np.float16) -> npt.NDArray[np.float32]:
    """The nearest float16, as float32; where that is off by more than ``slack`` on the wrong side, the next.

    To the nearest, so that what was decoded has the same zero and span when it is encoded again.
    """
    halves = values.astype(np.float16)
    off = halves - values if towards < 0 else values - halves
    wrong = off > slack
    halves[wrong] = np.nextafter(halves[wrong], towards)
    return halves.astype(np.float32)

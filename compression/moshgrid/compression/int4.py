"""The codec ``int4``: blocks of 128 share a float16 scale, two values to a byte; 4.125 bits a value."""

from __future__ import annotations

from moshgrid.compression import numpy_kernels
from moshgrid.compression.block_codec import BlockCodec
from moshgrid.compression.codec import ByteVector, CodecError, FloatVector

__all__ = ["Int4"]


class Int4(BlockCodec):
    """Off by at most half a step, 1/14 of the block's largest value (1/7 where that is below 4.5e-7).

    For differences and gradients; parameters themselves lose too much.
    """

    def __init__(self) -> None:
        super().__init__("int4", bits=4, levels=7)

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        saturated = super()._write(values, data)
        if values.size % 2:
            data[-1] &= 15
        return saturated

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        if room.size % 2 and data[-1] >> 4:
            raise CodecError("the half byte after the last int4 value is not 0")
        super()._look_over(data, room)

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        self._look_over(data, out)
        super()._read(data, out)

    def _encode(self, blocks: FloatVector, factors: FloatVector, codes: ByteVector) -> None:
        numpy_kernels.to_nibbles(blocks, factors, codes)

    def _decode(self, codes: ByteVector, steps: FloatVector, blocks: FloatVector) -> None:
        numpy_kernels.from_nibbles(codes, steps, blocks)

"""The codec ``int4``: blocks of 128 share a float16 scale, two values to a byte; 4.125 bits a value."""

from __future__ import annotations

from moshgrid.compression.block_codec import BlockCodec
from moshgrid.compression.codec import ByteVector, CodecError, FloatVector
from moshgrid.compression.kernels import Kernels

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

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        if out.size % 2 and data[-1] >> 4:
            raise CodecError("the half byte after the last int4 value is not 0")
        super()._read(data, out)

    def _encode(self, kernels: Kernels, blocks: FloatVector, factors: FloatVector, codes: ByteVector) -> None:
        kernels.to_nibbles(blocks, factors, codes)

    def _decode(self, kernels: Kernels, codes: ByteVector, steps: FloatVector, blocks: FloatVector) -> None:
        kernels.from_nibbles(codes, steps, blocks)

"""The codec ``int8``: blocks of 128 share a float16 scale, a signed byte a value; 8.125 bits."""

from __future__ import annotations

import numpy as np

from moshgrid.compression import numpy_kernels
from moshgrid.compression.block_codec import BlockCodec
from moshgrid.compression.codec import ByteVector, FloatVector

__all__ = ["Int8"]


class Int8(BlockCodec):
    """Off by at most half a step, 1/254 of the block's largest value (1/127 where that is below 7.6e-6)."""

    def __init__(self) -> None:
        super().__init__("int8", bits=8, levels=127)

    def _encode(self, blocks: FloatVector, factors: FloatVector, codes: ByteVector) -> None:
        numpy_kernels.to_bytes(blocks, factors, codes.view(np.int8))

    def _decode(self, codes: ByteVector, steps: FloatVector, blocks: FloatVector) -> None:
        numpy_kernels.from_bytes(codes.view(np.int8), steps, blocks)

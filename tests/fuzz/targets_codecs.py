"""Decoders of encoded parts. An input is a count (2 bytes), whether to cut or fill the rest to the right
length (1 byte), and the encoded bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fuzzing import Target

from moshgrid.compression import Codec, CodecError, codec_names, get_codec

_F32 = np.dtype(np.float32)


def decoding(codec: Codec) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        count, rest = int.from_bytes(data[:2], "little"), data[3:]
        length = codec.encoded_bytes(count, _F32)
        if data[2:3] > b"\x7f":
            rest = rest[:length].ljust(length, b"\x00")
        values = codec.decode(rest, count, _F32)
        assert values.size == count and np.isfinite(values).all(), "decoded to what cannot be averaged"

    return run


TARGETS = {f"codec-{name}": Target(decoding(get_codec(name)), (CodecError,)) for name in codec_names()}

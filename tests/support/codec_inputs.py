"""Inputs that rounding is hard for, all codecs, and the error that each codec's properties allow."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moshgrid.compression import codec_names, get_codec

F32 = np.dtype(np.float32)
ALL = [get_codec(name) for name in codec_names()]
STABLE = [get_codec(name) for name in ("none", "float16", "bfloat16", "int8", "int4")]
LIMITS = {"none": float(np.finfo(np.float32).max), "bfloat16": float(np.uint32(0x7F7F0000).view(np.float32))}
named = pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
SIZES = [0, 1, 2, 7, 127, 128, 129, 255, 257, 1023, 1024, 1025, 5000]
any_finite = arrays(
    np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
in_range = arrays(
    np.float32,
    st.sampled_from([0, 1, 2, 127, 128, 129, 300]),
    elements=st.floats(-65504, 65504, width=32) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-24, 2.0**-149]),
)


@st.composite
def spreads(draw):
    """Values around a centre, with a spread of any magnitude: what tensors look like."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, exponent = draw(st.sampled_from(SIZES)), draw(st.integers(-30, 13))
    values = rng.standard_normal(size) * 2.0**exponent + draw(st.sampled_from([0.0, 0.0, 1.0, -1000.0]))
    return np.clip(values, -65504, 65504).astype(np.float32)


def bound(codec, values):
    """What the codec's properties allow, per element."""
    properties = codec.properties
    absolute = np.abs(values.astype(np.float64))
    block = properties.block or max(values.size, 1)
    blocks = [absolute[at : at + block] for at in range(0, values.size, block)]
    peaks = np.concatenate([np.full(part.size, part.max()) for part in blocks] or [np.zeros(0)])
    allowed = absolute * properties.relative_error + peaks * properties.peak_error
    return allowed + properties.absolute_error

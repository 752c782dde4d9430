"""Codecs: lengths, round trips, saturation, refusal of wrong input, and equal bytes of both kernels."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moshgrid.compression import CodecError, Float16, Plain, codec_names, get_codec, register_codec

finite = arrays(
    np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@given(finite)
def test_none_keeps_every_bit(values):
    encoded = Plain().encode(values)
    assert len(encoded.data) == Plain().encoded_bytes(values.size, values.dtype)
    assert Plain().decode(encoded.data, values.size, values.dtype).tobytes() == values.tobytes()


def test_none_carries_float64():
    values = np.array([np.pi, 1e300, -5e-324])
    assert (Plain().decode(Plain().encode(values).data, 3, values.dtype) == values).all()


@given(finite)
def test_float16_is_within_its_bound_and_stable(values):
    codec = Float16()
    encoded = codec.encode(values)
    assert len(encoded.data) == codec.encoded_bytes(values.size, values.dtype)
    back = codec.decode(encoded.data, values.size, values.dtype)
    clipped = np.clip(values, -65504, 65504).astype(np.float64)
    bound = np.maximum(np.abs(clipped) * codec.properties.relative_error, 2.0**-25)
    assert (np.abs(back - clipped) <= bound).all()
    assert encoded.saturated == np.count_nonzero(np.abs(values) > 65504)
    assert codec.encode(back).data == encoded.data


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 1023, 1024, 5000]))
def test_float16_kernels_give_the_same_bytes(seed, count):
    torch = pytest.importorskip("torch")
    assert torch is sys.modules["torch"]
    bits = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.ascontiguousarray(np.where(np.isfinite(values), values, np.float32(1e-7)))
    by_torch = Float16().encode(values).data
    by_numpy = np.clip(values, -65504, 65504).astype("<f2").tobytes()
    assert by_torch == by_numpy
    decoded = Float16().decode(by_torch, count, values.dtype)
    assert decoded.tobytes() == np.frombuffer(by_numpy, "<f2").astype(np.float32).tobytes()


@pytest.mark.parametrize("codec", [Plain(), Float16()])
@pytest.mark.parametrize("extra", [-1, 1])
def test_a_wrong_length_is_refused(codec, extra):
    dtype = np.dtype(np.float32)
    with pytest.raises(CodecError):
        codec.decode(bytes(codec.encoded_bytes(10, dtype) + extra), 10, dtype)


@pytest.mark.parametrize("codec", [Plain(), Float16()])
def test_a_wrong_dtype_is_refused(codec):
    with pytest.raises(CodecError):
        codec.encode(np.arange(3))


def test_registry_names_what_there_is():
    assert codec_names()[:2] == ("none", "float16")
    assert get_codec("float16").name == "float16"
    with pytest.raises(KeyError, match="none, float16"):
        get_codec("gzip")
    with pytest.raises(ValueError, match="already"):
        register_codec(Float16())


def test_compression_does_not_load_torch():
    code = "import sys, moshgrid.compression; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

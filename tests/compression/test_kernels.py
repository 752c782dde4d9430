"""torch's and numpy's kernels give the same bytes and the same values, to the last bit."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshgrid.compression import codec_names, get_codec, kernels

torch = pytest.importorskip("torch")
NAMES = codec_names()
F32 = np.dtype(np.float32)


@st.composite
def values(draw):
    """Finite values of one of the kinds that rounding is hard for."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([0, 1, 2, 127, 128, 129, 1024, 1025, 33000, 70001]))
    match draw(st.sampled_from(["bits", "normal", "halves", "tiny", "zeros", "constant", "huge", "steps"])):
        case "bits":  # every finite pattern, denormals and ±0 among them
            found = rng.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)
            return np.where(np.isfinite(found), found, np.float32(1e-7))
        case "normal":
            return (rng.standard_normal(size) * 2.0 ** draw(st.integers(-40, 15))).astype(np.float32)
        case "halves":  # exactly between two float16
            half = rng.integers(0, 0x7BFF, size).astype(np.uint16)
            low, high = half.view(np.float16), (half + 1).astype(np.uint16).view(np.float16)
            return ((low.astype(np.float64) + high.astype(np.float64)) / 2).astype(np.float32)
        case "tiny":
            return (rng.integers(-300, 300, size) * 2.0 ** draw(st.integers(-149, -20))).astype(np.float32)
        case "zeros":
            return np.where(rng.random(size) < 0.5, np.float32(0), np.float32(-0.0))
        case "constant":
            return np.full(size, draw(st.floats(width=32, allow_nan=False, allow_infinity=False)), np.float32)
        case "huge":
            return (rng.uniform(-1, 1, size) * 3.4028e38).astype(np.float32)
        case _:  # exactly between two codes of int8 and int4
            found = (rng.integers(-254, 255, size) / 2).astype(np.float32)
            found[: size // 200] = 127
            return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(values=values())
def test_both_kernels_give_the_same_bytes(name, values):
    codec = get_codec(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_TORCH_FROM", 0)
        assert kernels.kernels_for(values.size).__name__.endswith("torch_kernels")
        by_torch = codec.encode(values)
        values_by_torch = codec.decode(by_torch.data, values.size, F32)
        patch.setattr(kernels, "_TORCH_FROM", sys.maxsize)
        assert kernels.kernels_for(values.size).__name__.endswith("numpy_kernels")
        by_numpy = codec.encode(values)
        assert by_torch.data == by_numpy.data
        assert by_torch.saturated == by_numpy.saturated
        assert np.array_equal(codec.decode(by_numpy.data, values.size, F32), values_by_torch)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([0, 1, 127, 129, 1025, 40001]))
def test_both_kernels_decode_any_bytes_alike(name, seed, count):
    codec = get_codec(name)
    data = np.random.default_rng(seed).integers(0, 256, codec.encoded_bytes(count, F32), dtype=np.uint8)
    if name in ("int8", "int4"):
        data[1 : 2 * -(-count // 128) : 2] &= 0x7B  # scales that are sound
    found = []
    for threshold in (0, sys.maxsize):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "_TORCH_FROM", threshold)
            try:
                found.append(codec.decode(data.tobytes(), count, F32).tobytes())
            except ValueError as error:
                found.append(str(error))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([1, 127, 129, 1025]), sound=st.booleans())
def test_looking_over_bytes_refuses_what_decoding_refuses(name, seed, count, sound):
    codec = get_codec(name)
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, codec.encoded_bytes(count, F32), dtype=np.uint8)
    if sound:
        data[:] = np.frombuffer(codec.encode(rng.standard_normal(count).astype(np.float32)).data, np.uint8)
        data[rng.integers(data.size)] ^= 1 << rng.integers(8)
    found = []
    for look in (codec.check, codec.decode_into):
        try:
            found.append(look(data.tobytes(), np.empty(count, np.float32)))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]

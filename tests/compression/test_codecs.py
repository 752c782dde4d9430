"""Codecs by their properties: lengths, error bounds, saturation, stability, and refusal of wrong input."""

import gc
import tracemalloc

import numpy as np
import pytest
from codec_inputs import F32, LIMITS, SIZES, STABLE, any_finite, bound, in_range, named, spreads
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moshgrid.compression import (
    BlockInt,
    CodecError,
    Float16,
    Plain,
    get_codec,
)


def round_trip(codec, values):
    encoded = codec.encode(values)
    assert len(encoded.data) == codec.encoded_bytes(values.size, values.dtype)
    assert isinstance(encoded.data, bytes)
    back = codec.decode(encoded.data, values.size, values.dtype)
    out = np.full(values.size, np.nan, values.dtype)
    codec.decode_into(encoded.data, out)
    assert out.tobytes() == np.asarray(back).tobytes()
    return back, encoded


@named
@settings(max_examples=60)
@given(st.one_of(in_range, spreads()))
@example(np.full(300, 0.1, np.float32))
@example(np.full(129, -0.0, np.float32))
@example(np.full(5, 2.0**-149, np.float32))
@example(np.float32([1, -1, 0.5, -0.5, 1.5, 2.5]))
@example(np.full(130, 65504, np.float32))
def test_the_error_is_within_what_the_codec_declares(codec, values):
    before = values.copy()
    back, encoded = round_trip(codec, values)
    assert (np.abs(back.astype(np.float64) - values) <= bound(codec, values)).all()
    assert encoded.saturated == 0
    assert values.tobytes() == before.tobytes()


@named
@given(any_finite)
def test_any_finite_values_can_be_sent_and_saturated_ones_are_counted(codec, values):
    back, encoded = round_trip(codec, values)
    assert np.isfinite(back).all()
    limit = LIMITS.get(codec.name, 65504.0)
    assert encoded.saturated == np.count_nonzero(np.abs(values.astype(np.float64)) > limit)
    assert codec.encode(np.clip(values, -limit, limit)).data == encoded.data


@pytest.mark.parametrize("codec", STABLE, ids=lambda codec: codec.name)
@settings(max_examples=100)
@given(st.one_of(any_finite, in_range, spreads()))
@example(np.float32([3e-8, 1e-8, -2e-8]))
@example(np.float32([k * 2.0**-24 for k in range(300)]))
@example(np.float32([49.01 * 2.0**-24, 1e-9]))
def test_encoding_what_was_decoded_gives_the_same_bytes(codec, values):
    back, encoded = round_trip(codec, values)
    assert codec.encode(np.array(back)).data == encoded.data


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SIZES))
def test_every_16_bit_pattern_that_is_decoded_is_encoded_again(seed, count):
    bits = np.random.default_rng(seed).integers(0, 2**16, count).astype("<u2")
    for codec, exponent in ((Float16(), 0x7C00), (get_codec("bfloat16"), 0x7F80)):
        sound = np.where(bits & exponent == exponent, 0, bits).astype("<u2").tobytes()
        assert codec.encode(codec.decode(sound, count, F32)).data == sound


@given(any_finite)
def test_none_keeps_every_bit(values):
    back, _ = round_trip(Plain(), values)
    assert back.tobytes() == values.tobytes()


def test_none_carries_float64():
    values = np.array([np.pi, 1e300, -5e-324])
    assert (Plain().decode(Plain().encode(values).data, 3, values.dtype) == values).all()
    assert Plain().encoded_bytes(3, values.dtype) == 24


def test_float16_rounds_ties_to_even():
    values = np.float32([2049, 2051, -2049, 2.0**-25, 3 * 2.0**-25])
    back, _ = round_trip(Float16(), values)
    assert back.tolist() == [2048, 2052, -2048, 0, 2.0**-23]


def test_bfloat16_rounds_ties_to_even():
    bits = np.uint32([0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000, 0x00008000, 0x00018000])
    data = get_codec("bfloat16").encode(bits.view(np.float32)).data
    assert np.frombuffer(data, "<u2").tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0, 2]


def test_int8_and_int4_have_the_layout_that_is_written_down():
    values = np.zeros(130, np.float32)
    values[[0, 1, 2, 129]] = [127, -1, 2.5, 0.5]
    data = get_codec("int8").encode(values).data
    assert data[:4] == np.array([127, 0.5], "<f2").tobytes()
    assert list(data[4:8]) == [127, 255, 2, 0] and data[-1] == 127
    values = np.float32([7, -7, 3])
    assert get_codec("int4").encode(values).data == np.array([7], "<f2").tobytes() + bytes([0x1F, 0x0B])


@pytest.mark.parametrize("bits", range(2, 9))
def test_spikes_cost_a_block_nothing(bits):
    values = np.linspace(-1, 1, 256, dtype=np.float32)
    plain, _ = round_trip(get_codec(f"spike{bits}"), values)
    values[[3, 100, 130, 131]] = [60000, -60000, 4000, -3000]
    back, _ = round_trip(get_codec(f"spike{bits}"), values)
    assert back[[3, 100, 130, 131]].tolist() == [60000, -60000, 4000, -3000]
    others = np.delete(np.arange(256), [3, 100, 130, 131])
    assert np.abs(back - values)[others].max() <= 1.1 * max(np.abs(plain - values).max(), 0.5 / 2**bits)


@named
def test_the_bits_per_value_are_what_is_declared(codec):
    count = 1 << 20
    assert codec.encoded_bytes(count, F32) * 8 == pytest.approx(
        count * codec.properties.bits_per_value, rel=0.002
    )


# Refusals ---------------------------------------------------------------------------------------------


@named
@pytest.mark.parametrize("count", [1, 10, 128, 1000])
@pytest.mark.parametrize("extra", [-1, 1, 1000])
def test_a_wrong_length_is_refused(codec, count, extra):
    right = codec.encoded_bytes(count, F32)
    with pytest.raises(CodecError):
        codec.decode(bytes(max(right + extra, 0)) if right + extra >= 0 else b"", count, F32)
    with pytest.raises(CodecError):
        codec.decode_into(bytes(max(right + extra, 0)), np.empty(count, np.float32))


@named
def test_a_wrong_length_is_refused_before_anything_is_allocated(codec):
    gc.collect()
    tracemalloc.start()
    with pytest.raises(CodecError):
        codec.decode(bytes(1000), 1 << 40, F32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024


@named
@pytest.mark.parametrize("count", [-1, -(2**40)])
def test_a_negative_count_is_refused(codec, count):
    with pytest.raises(CodecError):
        codec.decode(b"", count, F32)


@named
def test_a_wrong_dtype_or_shape_is_refused(codec):
    for values in (np.arange(3), np.float16([1]), np.ones((2, 2), np.float32), np.ones(8, np.float32)[::2]):
        with pytest.raises(CodecError):
            codec.encode(values)
    with pytest.raises(CodecError):
        codec.decode(bytes(codec.encoded_bytes(4, F32)), 4, np.dtype(np.int8))


@named
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 130, 3000])
def test_values_that_are_not_finite_are_refused(codec, bad, count):
    values = np.ones(count, np.float32)
    values[-1] = bad
    with pytest.raises(CodecError, match="finite"):
        codec.encode(values)


HALF_INF, HALF_NAN, HALF_NEGATIVE = b"\x00\x7c", b"\x01\x7e", b"\x00\xbc"


@pytest.mark.parametrize(
    ("name", "at", "bad"),
    [
        ("none", 4, np.float32(np.inf).tobytes()),
        ("none", 4, np.float32(np.nan).tobytes()),
        ("float16", 2, HALF_INF),
        ("float16", 2, HALF_NAN),
        ("bfloat16", 2, b"\x80\x7f"),
        ("bfloat16", 2, b"\xc0\xff"),
        *[(name, at, bad) for name in ("int8", "int4") for at in (0, 2) for bad in (HALF_INF, HALF_NAN)],
        *[(name, at, HALF_NEGATIVE) for name in ("int8", "int4") for at in (0, 2)],
        *[
            (name, 4 * 9, np.float32(bad).tobytes())
            for name in ("uniform8", "quantile8")
            for bad in (np.inf, np.nan, -np.inf, 65536, -1e38)
        ],
        *[("spike4", at, HALF_INF) for at in (0, 4, 8, 12)],
        ("spike4", 4, HALF_NEGATIVE),
        ("spike4", 16, b"\x80\x00"),
        ("spike4", 16, b"\x00\x80"),
    ],
)
@pytest.mark.parametrize("count", [200, 1151])
def test_scales_codebooks_and_values_that_no_encoder_writes_are_refused(name, at, bad, count):
    codec = get_codec(name)
    if name.startswith("spike") and count != 200:
        at = at * -(-count // 128) // 2  # the fields of all blocks stand together
    data = bytearray(codec.encode(np.linspace(-1, 1, count, dtype=np.float32)).data)
    codec.decode(data, count, F32)
    data[at : at + len(bad)] = bad
    with pytest.raises(CodecError):
        codec.decode(data, count, F32)


def test_the_unused_half_byte_of_int4_is_0():
    codec = get_codec("int4")
    data = bytearray(codec.encode(np.ones(3, np.float32)).data)
    data[-1] |= 0x10
    with pytest.raises(CodecError, match="half byte"):
        codec.decode(data, 3, F32)


@named
def test_data_may_be_any_buffer_at_any_offset(codec):
    values = np.random.default_rng(1).standard_normal(2000).astype(np.float32)
    data = codec.encode(values).data
    expected = codec.decode(data, 2000, F32).tobytes()
    for buffer in (bytearray(data), memoryview(b"x" + data)[1:]):
        assert codec.decode(buffer, 2000, F32).tobytes() == expected
    values.flags.writeable = False
    assert codec.encode(values).data == data


@pytest.mark.parametrize("arguments", [(1,), (9,), (4, 100)])
def test_block_integers_have_2_to_8_bits(arguments):
    with pytest.raises(ValueError, match="bits must be 2 to 8"):
        BlockInt(*arguments)

"""Many inputs through every codec: round trips, saturation, encoding again, and the memory of decoding."""

import tracemalloc

import numpy as np
import pytest
from codec_inputs import ALL, F32, LIMITS, STABLE, any_finite, bound, in_range, named, spreads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moshgrid.compression import CodecError


def through_every_codec(values):
    """|x − decode(encode(x))| within the bound, saturation counted, and what was decoded encoded alike."""
    for codec in ALL:
        limit = LIMITS.get(codec.name, 65504.0)
        encoded = codec.encode(values)
        assert len(encoded.data) == codec.encoded_bytes(values.size, F32), codec.name
        back = np.array(codec.decode(encoded.data, values.size, F32))
        within = np.clip(values, -limit, limit)
        assert (np.abs(back.astype(np.float64) - within) <= bound(codec, within)).all(), codec.name
        assert encoded.saturated == np.count_nonzero(np.abs(values.astype(np.float64)) > limit), codec.name
        if codec in STABLE or codec.name == "quantile8":
            assert codec.encode(back).data == encoded.data, codec.name


@settings(max_examples=50)
@given(st.one_of(any_finite, in_range, spreads()))
def test_a_sample_of_round_trips(values):
    through_every_codec(values)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(any_finite, in_range, spreads()))
def test_a_hundred_thousand_round_trips(values):
    through_every_codec(values)


def most_memory(action, *arguments):
    """Bytes allocated at once by an action that may refuse."""
    tracemalloc.start()
    try:
        action(*arguments)
    except CodecError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@named
def test_no_bytes_decode_to_more_than_was_agreed(codec):
    """There is nothing to inflate: whatever the bytes say, the values and scratch in proportion to them."""
    count = 100_000
    right = codec.encoded_bytes(count, F32)
    rng = np.random.default_rng(0)
    out, into = 4 * count, np.empty(count, np.float32)
    codec.decode_into(bytes(right), into)  # what is kept between calls exists now
    for data in (bytes(right), b"\xff" * right, rng.bytes(right)):
        # The spike codecs compute a part as a whole, in codes and values; others write where they are told.
        scratch = 2 * out if codec.name.startswith("spike") else 0
        assert most_memory(codec.decode, data, count, F32) <= out + scratch + 64 * 1024
        assert most_memory(codec.decode_into, data, into) <= scratch + 64 * 1024


@named
@pytest.mark.parametrize("claimed", [0, 1, 1 << 31, 1 << 40])
def test_a_count_that_does_not_fit_the_bytes_is_refused_before_anything_is_allocated(codec, claimed):
    data = codec.encode(np.ones(1000, np.float32)).data
    with pytest.raises(CodecError):
        codec.decode(data, claimed, F32)
    assert most_memory(codec.decode, data, claimed, F32) < 64 * 1024

"""The arithmetic of a round: exact weighted means, refusal of bad values, digests, decoding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_simulation import IDENTITIES

from moshgrid.averaging import reduction
from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.manifest import Manifest, Member, sign_manifest
from moshgrid.averaging.part_memory import PartMemory
from moshgrid.averaging.reduction import apply_results, result_digest
from moshgrid.compression import CodecError

MEMORY = PartMemory()


def flat(vector):
    return FlatArrays([vector], vector.dtype)


def encode_part(manifest, vector, part):
    return reduction.encode_part(manifest, flat(vector), part, MEMORY)


def average_part(manifest, part, inputs, own):
    return reduction.average_part(manifest, part, inputs, flat(own), MEMORY)


def signed(weights, elements=50, part_elements=20, codec="none", dtype="float32"):
    n = len(weights)
    members = tuple(
        Member(identity.peer_id, "full", weight, 1 / n)
        for identity, weight in zip(IDENTITIES, weights, strict=False)
    )
    return sign_manifest(
        IDENTITIES[0],
        Manifest(
            bytes(16), "0", 1, members, codec, dtype, elements, part_elements, bytes(32), b"", bytes(16)
        ),
    )


@given(st.lists(st.floats(0.01, 1e6), min_size=2, max_size=16), st.integers(0, 2**31), st.data())
def test_an_average_is_the_weighted_mean_of_exactly_those_who_delivered(weights, seed, data):
    manifest = signed(weights)
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=50).astype(np.float32) for _ in weights]
    present = data.draw(st.sets(st.integers(0, len(weights) - 1), min_size=1))
    inputs = {i: None if i == 0 else encode_part(manifest, vectors[i], 1)[0] for i in present}
    average = average_part(manifest, 1, inputs, vectors[0])
    exact = np.average(
        [vectors[i][20:40].astype(np.float64) for i in sorted(present)],
        axis=0,
        weights=[weights[i] for i in sorted(present)],
    )
    got = np.frombuffer(average.data, np.float32)
    scale = np.abs([vectors[i][20:40] for i in present]).max()
    assert np.abs(got - exact).max() <= 2e-6 * scale
    assert average.contributors == sum(1 << i for i in present)
    assert not average.refused


def test_values_that_are_not_finite_or_too_short_are_refused_and_named():
    manifest = signed([1.0, 1.0, 1.0, 1.0])
    own = np.ones(50, np.float32)
    bad = np.full(20, np.inf, np.float32).tobytes()
    nan = np.full(20, np.nan, np.float32).tobytes()
    average = average_part(manifest, 0, {0: None, 1: bad, 2: nan, 3: b"short"}, own)
    assert set(average.refused) == {1, 2, 3}
    assert average.contributors == 1
    assert (np.frombuffer(average.data, np.float32) == 1).all()
    assert average_part(manifest, 0, {1: bad}, own) is None


def test_large_finite_values_do_not_overflow_the_sum():
    manifest = signed([1.0, 1.0])
    own = np.full(50, 3e38, np.float32)
    average = average_part(manifest, 0, {0: None, 1: own[:20].tobytes()}, own)
    assert np.frombuffer(average.data, np.float32)[0] == pytest.approx(3e38, rel=1e-6)


def test_float64_stays_float64_with_none():
    manifest = signed([1.0, 3.0], dtype="float64")
    own, other = np.full(50, 1.0), np.full(50, 1.0 + 1e-12)
    average = average_part(manifest, 0, {0: None, 1: other[:20].tobytes()}, own)
    assert np.frombuffer(average.data, np.float64)[0] == pytest.approx(1.0 + 0.75e-12, abs=1e-15)


def test_the_compression_error_is_measured():
    manifest = signed([1.0, 1.0], codec="float16")
    own = np.random.default_rng(0).normal(size=50).astype(np.float32)
    average = average_part(manifest, 0, {0: None}, own)
    relative = np.sqrt(average.squared_error / average.squared_norm)
    assert 1e-5 < relative < 2.0**-11


def test_a_digest_covers_part_contributors_and_bytes():
    digests = {
        result_digest(0, 3, b"abc"),
        result_digest(1, 3, b"abc"),
        result_digest(0, 1, b"abc"),
        result_digest(0, 3, b"abd"),
    }
    assert len(digests) == 4
    assert result_digest(0, 3, memoryview(b"abc")) in digests


def test_results_are_written_into_arrays_of_any_shape_and_dtype():
    manifest = signed([1.0, 1.0])
    vector = np.arange(50, dtype=np.float32)
    parts = [encode_part(manifest, vector, part)[0] for part in range(3)]
    arrays = [
        np.zeros((3, 5), np.float32),
        np.zeros((5, 3)).T,
        np.zeros(0, np.float32),
        np.zeros(20, np.float16),
    ]
    digest = apply_results(manifest, parts, FlatArrays(arrays, np.dtype(np.float32)))
    assert (np.concatenate([array.reshape(-1) for array in arrays]) == vector).all()
    assert len(bytes.fromhex(digest)) == 32


def test_a_result_that_does_not_decode_leaves_the_arrays_as_they_were():
    manifest = signed([1.0, 1.0])
    parts = [encode_part(manifest, np.ones(50, np.float32), part)[0] for part in range(3)]
    parts[2] = np.full(10, np.nan, np.float32).tobytes()
    array = np.zeros(50, np.float32)
    with pytest.raises(CodecError, match="finite"):
        apply_results(manifest, parts, flat(array))
    assert (array == 0).all()

"""Tensors of every kind: read, written in place, and moved by a difference that keeps what was added."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.run_values import RunValues
from moshgrid.averaging.schema import Schema
from moshgrid.averaging.tensor_staging import Staging
from moshgrid.averaging.tensors import add_difference, clone, describe, read_into, write_from
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch

torch = pytest.importorskip("torch")

NUMPY = ["float16", "float32", "float64", "longdouble", ">f4"]
LAYOUTS = {
    "plain": lambda a: a.copy(),
    "transposed": lambda a: np.asfortranarray(a),
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "a matrix": lambda a: a.view(np.matrix),
    "of a subclass": lambda a: a.view(type("Named", (np.ndarray,), {})),
}


def config(arrays):
    return run_config("run", arrays, 4, 2, "none", "single", "mean", None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_arrays_of_any_float_type_and_layout(dtype, layout):
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    array = LAYOUTS[layout](values.astype(dtype))
    schema = Schema.of([array])
    held = RunValues(config([array]), [array])
    vector = held.flat.read(0, 12).copy()
    assert vector.tolist() == values.reshape(-1).tolist()
    held.flat.write(0, vector * 2)
    held.changed()
    assert (array == values * 2).all()
    schema.add_difference([array], [array.copy()], [vector])
    assert (array == values).all()
    assert array.dtype == np.dtype(dtype)


TORCH = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TORCH_LAYOUTS = {
    "plain": lambda t: t.clone(),
    "transposed": lambda t: t.t().contiguous().t(),
    "every other": lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
    "a parameter": lambda t: torch.nn.Parameter(t.clone()),
}


@pytest.mark.parametrize("layout", TORCH_LAYOUTS)
@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_torch_tensors_of_any_float_type_and_layout(dtype, layout):
    values = torch.arange(12.0).reshape(3, 4)
    tensor = TORCH_LAYOUTS[layout](values.to(dtype))
    schema = Schema.of([tensor])
    assert schema.dtypes == (str(dtype).removeprefix("torch."),)
    held = RunValues(config([tensor]), [tensor])
    vector = held.flat.read(0, 12).copy()
    assert vector.tolist() == values.reshape(-1).tolist()
    start = schema.copy([tensor])
    held.flat.write(0, vector * 2)
    assert held.averages is None
    held.changed()
    assert torch.equal(tensor.detach().float(), values * 2)
    assert held.averages[0].reshape(-1).tolist() == (vector * 2).tolist()
    schema.add_difference([tensor], start, [vector * 3])  # it is 2x by now, was x, and the average is 3x
    assert torch.equal(tensor.detach().float(), values * 4)


def test_numpy_and_torch_have_the_same_schema():
    both = [np.zeros((2, 3), np.float32), np.zeros(4, np.float16)]
    assert Schema.of(both).digest == Schema.of([torch.from_numpy(a) for a in both]).digest


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (torch.zeros(3, dtype=torch.int64), "int64; only floating point"),
        (torch.zeros(3, dtype=torch.complex64), "complex64; only floating point"),
        (torch.zeros(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "without data"),
        (np.zeros(3, np.complex64), "complex64; only floating point"),
        (np.array(["a"]), "only floating point"),
        (np.ma.masked_array(np.zeros(3, np.float32)), "it is masked"),
        ([1.0, 2.0], "not list"),
        (None, "not NoneType"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_words(array, words):
    with pytest.raises(ConfigurationError, match=words):
        describe(array)
    with pytest.raises(ConfigurationError, match="array 1: "):
        Schema.of([np.zeros(2, np.float32), array])


def test_arrays_without_a_single_element_are_refused_at_once():
    with pytest.raises(ConfigurationError, match="nothing to average"):
        config([np.zeros((0, 3), np.float32), torch.zeros(0)])
    assert config([np.zeros((0, 3), np.float32), torch.zeros(())]).schema.elements == 1


def test_a_read_only_array_is_refused_before_anything_is_sent():
    array = np.zeros(3, np.float32)
    schema = Schema.of([array])
    array.flags.writeable = False
    with pytest.raises(ConfigurationError, match="array 0: it is read-only"):
        schema.check([array])


def test_the_first_mismatch_is_named():
    schema = Schema.of([torch.zeros(2, 3), torch.zeros(4, dtype=torch.bfloat16)])
    with pytest.raises(SchemaMismatch) as caught:
        schema.check([torch.zeros(2, 3), torch.zeros(4)])
    assert caught.value.diff == ("array 1: yours (4,) float32, expected (4,) bfloat16",)


# The difference


@given(st.integers(0, 2**31), st.sampled_from(["float16", "float32", "float64"]), st.integers(1, 3000))
def test_a_difference_keeps_progress_and_lands_exactly_where_nothing_moved(seed, dtype, size):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=size).astype(dtype)
    average = rng.normal(size=size).astype(np.float32)
    progress = np.where(rng.random(size) < 0.5, rng.normal(size=size), 0).astype(dtype)
    now = start + progress
    moved = now != start
    expected = now.astype(np.float64) + (average.astype(np.float64) - start.astype(np.float64))
    for array, then in ((now.copy(), start), (torch.from_numpy(now.copy()), torch.from_numpy(start))):
        add_difference(array, then, average)
        got = np.asarray(array)
        assert got.dtype == np.dtype(dtype)
        assert (got[~moved] == average[~moved].astype(dtype)).all()
        # torch rounds float64 to float16 by way of float32: off by a unit now and then.
        exact = expected[moved].astype(dtype)
        off = 1 if dtype == "float16" and array is not got else 0
        assert (np.abs(got[moved] - exact) <= off * np.abs(np.spacing(exact))).all()


def test_a_difference_of_a_large_array_goes_block_by_block():
    start = np.random.default_rng(0).normal(size=(2100, 1000)).astype(np.float32)
    array, average = start + np.float32(1), np.zeros(start.size, np.float32)
    add_difference(array, start, average)
    np.testing.assert_allclose(array, 1.0, atol=1e-6)
    scalar = np.array(3, np.float32)
    add_difference(scalar, np.array(2, np.float32), np.float32([5]))
    assert scalar == 6
    empty = np.zeros((0, 3), np.float32)
    add_difference(empty, empty, np.zeros(0, np.float32))


# Memory of a device, through two buffers (of the CPU here: the way is the same)


@pytest.mark.parametrize("chunk", [64, 4096])
@pytest.mark.parametrize("dtype", TORCH, ids=str)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 1000])
def test_staging_brings_all_values_over_in_chunks(size, dtype, chunk):
    staging = Staging(torch, chunk, pinned=False)
    source = torch.arange(float(size)).to(dtype)
    target = torch.full((size,), -1.0)
    staging.read(source, target)
    assert torch.equal(target, source.float())
    back = torch.full((size,), -1.0, dtype=dtype)
    staging.write(target, back)
    assert torch.equal(back, source)


def test_staging_writes_into_a_tensor_of_any_layout():
    staging = Staging(torch, 64, pinned=False)
    tensor = torch.zeros(8, 9).t()
    values = torch.arange(72.0)
    staging.write(values, tensor)
    assert torch.equal(tensor, values.view(9, 8))
    staging.write(-values.view(9, 8), tensor)  # as a difference comes, in the array's shape
    assert torch.equal(tensor, -values.view(9, 8))
    staging.write(values, tensor)
    scalar = torch.zeros(())
    staging.write(torch.tensor(3.0), scalar)
    assert scalar == 3
    out = torch.empty(72)
    staging.read(tensor, out)
    assert torch.equal(out, values)


def test_staging_takes_turns_among_threads():
    staging = Staging(torch, 64, pinned=False)
    wrong = []

    def work(value):
        for _ in range(50):
            target = torch.empty(500)
            staging.read(torch.full((500,), value), target)
            if not (target == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_tensors_on_a_gpu_are_averaged_where_they_are(dtype):
    values = torch.randn(3_000_000, device="cuda").to(dtype)
    tensor = values.clone().view(1000, 3000).t()
    vector = np.empty(tensor.numel(), np.float32)
    read_into(vector, tensor)
    assert torch.equal(torch.from_numpy(vector), tensor.reshape(-1).float().cpu())
    start = clone(tensor)
    write_from(vector * 2, tensor)
    add_difference(tensor, start, vector)
    assert torch.allclose(tensor.float(), start.float() * 2, rtol=1e-2)

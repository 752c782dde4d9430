"""Layouts: one text says which codec for which stretch; parts follow from it, nonsense is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.layout import (
    MAX_PART_BYTES,
    arrange,
    codecs_of,
    cut,
    largest_part,
    stretches,
    without_reference,
)
from moshgrid.compression import CodecPlan, codec_names
from moshgrid.p2p.errors import ConfigurationError

F32 = np.dtype(np.float32)


def test_one_codec_is_written_as_its_name():
    assert arrange(["int8", "int8"], [3, 4]) == ("int8", (0, 1))
    assert codecs_of("int8") == ("int8",)


def test_tensors_of_one_codec_stand_together():
    text, order = arrange(["int8", "none", "int8", "float16", "none"], [100, 2, 50, 7, 3])
    assert text == "int8*150+none*5+float16*7"
    assert order == (0, 2, 1, 4, 3)
    assert codecs_of(text) == ("int8", "none", "float16")
    assert [(one.start, one.stop, one.codec.name) for one in stretches(text, 162)] == [
        (0, 150, "int8"), (150, 155, "none"), (155, 162, "float16"),
    ]  # fmt: skip


def test_empty_tensors_take_no_stretch():
    assert arrange(["int8", "none"], [5, 0])[0] == "int8*5"


names = st.sampled_from(codec_names())


@given(st.lists(st.tuples(names, st.integers(1, 3000)), min_size=1, max_size=12), st.integers(1, 700))
def test_parts_cover_the_vector_and_have_one_codec_each(tensors, part_elements):
    text, order = arrange([name for name, _ in tensors], [size for _, size in tensors])
    elements = sum(size for _, size in tensors)
    parts = cut(text, elements, part_elements, F32, 10**6)
    assert [part.start for part in parts] == [0] + [part.stop for part in parts[:-1]]
    assert parts[-1].stop == elements
    wanted = np.concatenate([[tensors[index][0]] * tensors[index][1] for index in order])
    for part in parts:
        assert 0 < part.stop - part.start <= part_elements
        assert set(wanted[part.start : part.stop]) == {part.codec.name}


@given(names, st.integers(1, 2**33), st.integers(1, 64))
def test_the_largest_part_is_within_the_limit(name, elements, sharers):
    size = largest_part(name, elements, F32, sharers)
    assert 1 <= size <= elements
    codec = stretches(name, elements)[0].codec
    assert codec.encoded_bytes(size, F32) <= MAX_PART_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "", "zip", "int8*", "*", "int8*100+", "+int8*100", "int8*99", "int8*101", "int8*-1+int8*101",
        "int8*0+none*100", "int8*٣", "int8*1e2", "zip*100", "int8*9999999999999", "+".join(["int8*1"] * 100),
        "int8+none*100",
    ],
)  # fmt: skip
def test_what_is_no_layout_is_refused(text):
    with pytest.raises((ValueError, KeyError)):
        cut(text, 100, 10, F32, 1000)


def test_parts_that_cannot_be_are_refused():
    for arguments in [
        ("float16", 100, 10, np.dtype(np.float64), 1000),
        ("float16", 10**6, 10**6, F32, 1000),
        ("float16", 2**36, 1, F32, 1000),
    ]:
        with pytest.raises(ValueError, match=r"does not take|larger than|more than"):
            cut(*arguments)


def test_without_a_reference_small_codecs_give_way_to_float16():
    assert without_reference("int8") == without_reference("bfloat16") == "float16"
    assert without_reference("none") == "none"
    assert without_reference("none*4+int8*6+int4*5") == "none*4+float16*11"
    assert without_reference("float16*4+int8*6") == "float16"


ARRAYS = [np.zeros((100, 100), np.float32), np.zeros(100, np.float32), np.zeros((80, 80), np.float32)]


def config(compression, arrays=ARRAYS):
    return run_config("r", arrays, 4, 2, compression, "moshpit", "mean", None)


def test_a_plan_chooses_by_size_and_role():
    assert config(CodecPlan()).layout == "int8*16400+float16*100"
    assert config(CodecPlan()).order == (0, 2, 1)
    assert config(CodecPlan(large="int4", small="none", small_below=9000)).layout == "int4*10000+none*6500"
    roles = CodecPlan(roles=("weight", "bias", "embedding"), by_role={"embedding": "bfloat16"})
    assert config(roles).layout == "int8*10000+float16*100+bfloat16*6400"
    assert config(["int8", "none", "int8"]).layout == "int8*16400+none*100"


def test_float64_needs_codecs_that_take_it():
    doubles = [np.zeros(5), np.zeros(5000)]
    assert config("none", doubles).dtype == np.float64
    assert config(["none", "int8"], doubles).dtype == np.float32


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        ("zip", "none, float16"),
        (CodecPlan(large="zip"), "there is no codec 'zip'"),
        (["int8"], "1 codecs for 3 arrays"),
        (CodecPlan(roles=("a",)), "1 roles cannot be for 3"),
        (CodecPlan(by_role={"norm": "none"}), "no tensor has the role norm"),
    ],
)
def test_a_choice_that_makes_no_sense_says_why(compression, words):
    with pytest.raises(ConfigurationError, match=words):
        config(compression)

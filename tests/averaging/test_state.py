"""States: what makes sense as a description, what passes as a chunk, and how arrays travel."""

import msgspec
import numpy as np
import pytest

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.landing import Landing
from moshgrid.averaging.layout import cut
from moshgrid.averaging.named_arrays import ArraySpec, NamedState, chunk_bytes_for
from moshgrid.averaging.reduction import result_digest
from moshgrid.averaging.state import (
    Chunk,
    Description,
    KeptState,
    NamedDescription,
    is_chunk_of,
    keep_named,
    plain_state,
)
from moshgrid.p2p.errors import ConfigurationError, MoshgridError

SCHEMA = bytes(32)
VALUES = np.arange(5, dtype=np.float32)
CHUNKS = [(3, VALUES[:3].tobytes()), (1, VALUES[3:].tobytes())]


def description(round_number=4, chunks=CHUNKS, **changes):
    digests = tuple(result_digest(part, *chunk) for part, chunk in enumerate(chunks))
    return Description(
        **{
            "round": round_number,
            "codec": "none",
            "dtype": "float32",
            "elements": 5,
            "part_elements": 3,
            "schema": SCHEMA,
            "digests": digests,
            **changes,
        }
    )


def landed(state):
    """A landing with every chunk of a kept state."""
    landing = Landing(state.description)
    for part in landing.missing:
        assert is_chunk_of(state.description, part, state.chunk(part))
        landing.put(part, state.chunk(part))
    assert not landing.missing
    assert landing.bytes_here == sum(state.description.lengths)
    return landing


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 0},
        {"round": 2**50},
        {"elements": 7},
        {"elements": 2**50},
        {"part_elements": 0},
        {"codec": "gzip"},
        {"codec": "none*2+float16*2"},
        {"digests": (b"short", b"short")},
        {"codec": "float16", "dtype": "float64"},
    ],
)
def test_descriptions_that_make_no_sense(changes):
    assert description().is_sound
    assert not description(**changes).is_sound


def test_a_chunk_has_the_right_length_and_digest():
    state = description()
    assert is_chunk_of(state, 0, Chunk(*CHUNKS[0]))
    assert not is_chunk_of(state, 0, Chunk(1, CHUNKS[0][1]))
    assert not is_chunk_of(state, 0, Chunk(3, CHUNKS[0][1][:-1]))
    assert not is_chunk_of(state, 1, Chunk(*CHUNKS[0]))
    assert not is_chunk_of(state, 0, Chunk(2**70, CHUNKS[0][1]))


def test_a_state_of_several_codecs_decodes():
    values = np.arange(10, dtype=np.float32)
    parts = cut("none*4+float16*6", 10, 4, values.dtype, 9)
    chunks = [(1, part.codec.encode(values[part.start : part.stop]).data) for part in parts]
    state = description(chunks=chunks, codec="none*4+float16*6", elements=10, part_elements=4)
    assert state.is_sound
    assert state.lengths == (16, 8, 4)
    landing = landed(KeptState(state, tuple(chunks)))
    config = run_config("r", [values], 4, 2, ["none"], "moshpit", "mean", None)
    assert (landing.arrays(config)[0] == values).all()
    assert (landing.vector() == values).all()


def test_the_state_after_a_round_with_a_reference_is_kept_as_it_is():
    values = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    state = plain_state(3, SCHEMA, values)
    assert state.description.is_sound and state.description.codec == "none"
    assert landed(state).vector().tobytes() == values.tobytes()


def test_a_donor_gives_only_what_there_is():
    kept = KeptState(description(), tuple(CHUNKS))
    assert kept.chunk(1) == Chunk(*CHUNKS[1])
    with pytest.raises(MoshgridError):
        kept.chunk(2)


# Named states ---------------------------------------------------------------------------------------


def example_state(round_number=7, seed=0, size=400_000):
    rng = np.random.default_rng(seed)
    arrays = {
        "weight": rng.standard_normal((size // 100, 100)).astype(np.float32),
        "empty": np.zeros((0, 3), np.float64),
        "scalar": np.array(2.5),
        "steps": np.arange(7, dtype=np.int64),
        "half": rng.integers(0, 2**16, 33).astype(np.uint16),
        "transposed": rng.standard_normal((5, 3)).astype(np.float16).T,
    }
    return NamedState(round_number, arrays, {"samples": 12345, "lr": 0.1}, frozenset({"half"}))


def test_named_arrays_come_out_as_they_went_in():
    state = example_state()
    kept = keep_named(state, SCHEMA)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(kept.description), type=NamedDescription)
    assert again.is_sound and again.id == kept.description.id
    assert len(kept.description.digests) == 4
    got = landed(kept).named()
    assert got.round == 7 and got.meta == state.meta and got.bfloat16 == {"half"}
    assert list(got.arrays) == list(state.arrays)
    for name, array in state.arrays.items():
        assert got.arrays[name].dtype == array.dtype
        assert got.arrays[name].shape == array.shape
        assert got.arrays[name].tobytes() == array.tobytes()
        assert not got.arrays[name].flags.writeable  # others are served from the same memory
    assert keep_named(example_state(), SCHEMA).description.id == kept.description.id
    assert keep_named(example_state(seed=1), SCHEMA).description.id != kept.description.id


@pytest.mark.parametrize(
    "changes",
    [
        {"round": -1},
        {"meta": bytes(70_000)},
        {"chunk_bytes": 1},
        {"chunk_bytes": 2**30},
        {"digests": ()},
        {"digests": (bytes(31),)},
        {"arrays": (ArraySpec("a", "object", (4,)),)},
        {"arrays": (ArraySpec("a", "float32", (-4,)),)},
        {"arrays": (ArraySpec("a", "float32", (2**39, 2**39)),)},
        {"arrays": (ArraySpec("a", "float32", (4,)), ArraySpec("a", "float32", (4,)))},
        {"arrays": (ArraySpec("a", "float32", (1,) * 40),)},
        {"arrays": (ArraySpec("", "float32", (4,)),)},
    ],
)
def test_named_descriptions_that_make_no_sense(changes):
    sound = keep_named(NamedState(1, {"a": np.zeros(4, np.float32)}), SCHEMA).description
    assert sound.is_sound
    assert not msgspec.structs.replace(sound, **changes).is_sound


def test_what_cannot_travel_is_said():
    with pytest.raises(ConfigurationError, match="'a'"):
        keep_named(NamedState(1, {"a": np.array(["text"])}), SCHEMA)
    with pytest.raises(ConfigurationError, match="meta"):
        keep_named(NamedState(1, {}, {"a": "x" * 70_000}), SCHEMA)
    with pytest.raises(ConfigurationError, match="meta"):
        keep_named(NamedState(1, {}, {"a": object()}), SCHEMA)


def test_small_values_that_cannot_be_read_are_an_error_of_the_state():
    kept = keep_named(NamedState(1, {"a": np.zeros(4, np.float32)}), SCHEMA)
    spoiled = KeptState(msgspec.structs.replace(kept.description, meta=b"\xc1"), kept.chunks)
    with pytest.raises(MoshgridError, match="small values"):
        landed(spoiled).named()


def test_chunks_grow_before_there_are_too_many():
    assert chunk_bytes_for(0, 4) == chunk_bytes_for(2**21, 4) == 2**19
    assert chunk_bytes_for(2**21 + 1, 4) == 2**20
    with pytest.raises(ValueError):
        chunk_bytes_for(2**24 + 1, 4)


def test_what_is_the_same_in_a_newer_state_is_not_downloaded_again():
    old, new = example_state(7), example_state(8)
    new.arrays["weight"][-1] += 1  # one chunk of four
    before, after = keep_named(old, SCHEMA), keep_named(new, SCHEMA)
    landing = Landing(after.description)
    landing.take_over(landed(before))
    assert len(landing.missing) == 1
    part = landing.missing[0]
    landing.put(part, after.chunk(part))
    assert landing.named().arrays["weight"].tobytes() == new.arrays["weight"].tobytes()
    assert landed(landing.kept()).named().round == 8

"""State for latecomers: what is chosen among offers, and what passes as a chunk."""

import numpy as np
import pytest

from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.layout import cut
from moshgrid.averaging.reduction import result_digest
from moshgrid.averaging.state import (
    Chunk,
    Description,
    GetChunk,
    SealedState,
    choose_state,
    decode_state,
    is_chunk_of,
    plain_state,
)
from moshgrid.p2p.errors import MoshgridError

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


def test_the_newest_round_wins_and_within_it_the_majority():
    forged = description(4, [(3, b"x" * 12), CHUNKS[1]])
    offers = {"a": description(3), "b": description(4), "c": forged, "d": description(4)}
    chosen, donors = choose_state(offers, SCHEMA)
    assert chosen == description(4)
    assert donors == ("b", "d")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": bytes(31) + b"x"},
        {"elements": 7},
        {"elements": 2**50},
        {"part_elements": 0},
        {"codec": "gzip"},
        {"codec": "none*2+float16*2"},
        {"digests": (b"short", b"short")},
        {"codec": "float16", "dtype": "float64"},
    ],
)
def test_offers_that_make_no_sense_do_not_count(changes):
    assert choose_state({"a": description(**changes)}, SCHEMA) is None
    assert choose_state({"a": Description(0)}, SCHEMA) is None
    assert choose_state({}, SCHEMA) is None


def test_a_chunk_has_the_right_length_and_digest():
    state = description()
    spans = state.parts()
    assert is_chunk_of(state, 0, spans[0], Chunk(*CHUNKS[0]))
    assert not is_chunk_of(state, 0, spans[0], Chunk(1, CHUNKS[0][1]))
    assert not is_chunk_of(state, 0, spans[0], Chunk(3, CHUNKS[0][1][:-1]))
    assert not is_chunk_of(state, 1, spans[1], Chunk(*CHUNKS[0]))
    assert not is_chunk_of(state, 0, spans[0], Chunk(2**70, CHUNKS[0][1]))


def test_a_state_of_several_codecs_decodes():
    values = np.arange(10, dtype=np.float32)
    parts = cut("none*4+float16*6", 10, 4, values.dtype, 9)
    chunks = [(1, part.codec.encode(values[part.start : part.stop]).data) for part in parts]
    state = description(chunks=chunks, codec="none*4+float16*6", elements=10, part_elements=4)
    assert state.is_sound
    assert [len(data) for _, data in chunks] == [16, 8, 4]
    array = np.zeros_like(values)
    decode_state(
        state, {i: Chunk(*chunk) for i, chunk in enumerate(chunks)}, FlatArrays([array], array.dtype)
    )
    assert (array == values).all()


def test_the_state_after_a_round_with_a_reference_is_kept_as_it_is():
    values = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    state = plain_state(3, SCHEMA, values)
    assert state.description.is_sound and state.description.codec == "none"
    chunks = {i: Chunk(*chunk) for i, chunk in enumerate(state.chunks)}
    for part, span in enumerate(state.description.parts()):
        assert is_chunk_of(state.description, part, span, chunks[part])
    array = np.zeros_like(values)
    decode_state(state.description, chunks, FlatArrays([array], array.dtype))
    assert array.tobytes() == values.tobytes()


def test_chunks_make_the_vector_again():
    array = np.zeros_like(VALUES)
    chunks = {part: Chunk(*chunk) for part, chunk in enumerate(CHUNKS)}
    decode_state(description(), chunks, FlatArrays([array], array.dtype))
    assert (array == VALUES).all()


def test_a_donor_gives_only_what_it_still_has():
    sealed = SealedState(description(), tuple(CHUNKS))
    digest = description().digests[1]
    assert sealed.chunk(GetChunk(bytes(16), 4, 1, digest)) == Chunk(*CHUNKS[1])
    for query in (
        GetChunk(bytes(16), 3, 1, digest),
        GetChunk(bytes(16), 4, 9, digest),
        GetChunk(bytes(16), 4, 0, digest),
    ):
        with pytest.raises(MoshgridError):
            sealed.chunk(query)

"""What strangers say of states: queries, answers, and admission tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from fuzzing import Target

from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.state import (
    Chunk,
    Description,
    NamedDescription,
    brief_of,
    is_chunk_of,
    keep_named,
    named_in,
    plain_state,
)
from moshgrid.averaging.state_service import STATE, Busy, GetChunk, GetDescription, GetState, Offer
from moshgrid.averaging.vouching import admit, is_admitted
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import Identity

__all__ = ["TARGETS"]

AUTHORITY, PEER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
NOW = 1_800_000_000_000
KEPT = keep_named(
    NamedState(3, {"a": np.arange(5.0), "b": np.zeros((2, 3), np.float32)}, {"n": 1}), bytes(32)
)
PLAIN = plain_state(3, bytes(32), np.arange(7, dtype=np.float32))


def query(data: bytes) -> None:
    """As a donor reads it."""
    decode(STATE.query_decoder, data)


def answer(data: bytes) -> None:
    """As a newcomer reads it: nothing may be allocated for what is not sound."""
    message = decode(STATE.answer_decoder, data)
    if isinstance(message, Chunk):
        assert not is_chunk_of(PLAIN.description, 0, message) or message == PLAIN.chunk(0)
    elif isinstance(message, Offer):
        assert message.state is None or message.state.is_sound in (True, False)
    elif isinstance(message, Description | NamedDescription) and message.is_sound:
        assert len(message.lengths) == len(message.digests) and len(message.id) == 32
        if isinstance(message, NamedDescription) and sum(message.lengths) < 10**6:
            named_in(message, bytearray(sum(message.lengths)))


def admission(data: bytes) -> None:
    """Only what the authority signed is a token, and any change shows."""
    good = admit(AUTHORITY, PEER.peer_id, "n", NOW + 1)
    assert not is_admitted(data, PEER.peer_id, "n", AUTHORITY.peer_id, NOW) or data == good


TARGETS = {
    "state-query": Target(query, (Unreadable,)),
    "state-answer": Target(answer, (Unreadable, MoshgridError)),
    "state-admission": Target(admission, ()),
}


def corpus() -> dict[str, list[bytes]]:
    """One good input of each shape, by target."""
    queries = [GetState(bytes(16)), GetState(bytes(16), 7), GetDescription(bytes(16), bytes(32)),
               GetState(bytes(16), id=bytes(32)), GetChunk(bytes(16), bytes(32), 9)]  # fmt: skip
    token = admit(AUTHORITY, PEER.peer_id, "n", NOW + 1)
    answers = [Offer(), Offer(brief_of(KEPT.description), (brief_of(PLAIN.description),), token), Busy(0.5),
               KEPT.description, PLAIN.description, PLAIN.chunk(0), KEPT.chunk(0)]  # fmt: skip
    return {
        "state-query": [msgspec.msgpack.encode(each) for each in queries],
        "state-answer": [msgspec.msgpack.encode(each) for each in answers],
        "state-admission": [token, admit(PEER, PEER.peer_id, "n", NOW + 1)],
    }


def main() -> None:
    home = Path(__file__).parent / "corpus"
    for name, inputs in corpus().items():
        (home / name).mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (home / name / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    main()

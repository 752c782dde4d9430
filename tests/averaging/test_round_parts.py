"""The bytes of a round at one member: own values go out a few parts ahead of the link, and nothing stays."""

import numpy as np
import pytest
import trio
import trio.testing
from round_simulation import manifest_for

from moshgrid.averaging.effects import Reduce, SendPart
from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.messages import PartData
from moshgrid.averaging.part_memory import PartMemory
from moshgrid.averaging.part_work import inline
from moshgrid.averaging.round_parts import RoundParts
from moshgrid.compression import CodecError

PARTS = 12


class Link:
    """What was handed to the link, and what to call when it is on its way."""

    def __init__(self):
        self.values = np.arange(2 * PARTS, dtype=np.float32)
        self.events, self.queued, self.memory = [], [], PartMemory()
        self.memory.keep(bytes(16), 2**20)
        arrays = FlatArrays([self.values], self.values.dtype)
        signed = manifest_for(2, parts_each=PARTS)
        self.parts = RoundParts(signed, 0, arrays, self.memory, inline, self.events.append, self._send)

    def encode_all(self, nursery):
        self.parts.open(nursery)
        for part in range(PARTS):
            self.parts.encode(SendPart(1, part))

    def _send(self, member, message, payload, sent):
        self.queued.append((member, message, float(np.frombuffer(payload, np.float32)[0]), sent))


def test_values_are_encoded_a_few_parts_ahead_of_the_link():
    async def main():
        link = Link()
        async with trio.open_nursery() as nursery:
            link.encode_all(nursery)
            for sent in range(PARTS):
                await trio.testing.wait_all_tasks_blocked()
                assert len(link.queued) == min(sent + 4, PARTS)
                link.queued[sent][-1]()
        assert [(member, message, value) for member, message, value, _ in link.queued] == [
            (1, PartData(part), float(part)) for part in range(PARTS)
        ]

    trio.run(main)


def test_after_the_arrays_are_the_callers_again_nothing_is_read_from_them():
    async def main():
        link = Link()
        async with trio.open_nursery() as nursery:
            link.encode_all(nursery)
            await trio.testing.wait_all_tasks_blocked()
            link.parts.close()
            for *_, sent in tuple(link.queued):
                sent()
        assert len(link.queued) == 4

    trio.run(main)


def test_values_that_turn_bad_meanwhile_fail_the_round_and_not_the_link():
    async def main():
        link, went_on = Link(), False
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                link.encode_all(nursery)
                await trio.testing.wait_all_tasks_blocked()
                link.values[:] = np.nan
                link.queued[0][-1]()
                went_on = True
        assert went_on
        assert caught.group_contains(CodecError)

    trio.run(main)


def test_the_memory_of_results_is_free_when_the_round_ends():
    async def main():
        link = Link()
        async with trio.open_nursery() as nursery:
            link.parts.open(nursery)
            link.parts.reduce(Reduce(0, (0,)))
            await trio.testing.wait_all_tasks_blocked()
        (made,) = link.events
        assert link.parts.held(0, made.digest)[0] == 1
        spare = link.memory.spare
        link.parts.end()
        assert link.memory.spare > spare

    trio.run(main)

"""Part memory: used again when the last view is gone, never while somebody still looks, within bounds."""

import numpy as np

from moshgrid.averaging.part_memory import PartMemory


def test_a_buffer_comes_back_only_when_nothing_refers_to_it():
    memory = PartMemory()
    memory.keep(b"run", 1 << 20)
    view = memory.allocate(1000)
    view[:3] = b"abc"
    kept = np.frombuffer(view[1:3], np.uint8)
    del view
    assert memory.spare == 0
    memory.allocate(1000)[:3] = b"xyz"
    assert kept.tobytes() == b"bc"
    spare = memory.spare
    del kept
    assert memory.spare == spare + 65536


def test_what_is_kept_is_bounded_and_freed_when_the_run_ends():
    memory = PartMemory()
    memory.keep(b"one", 3 * 65536)
    memory.keep(b"two", 65536)
    views = [memory.allocate(65536) for _ in range(10)]
    assert memory.spare == 0
    views.clear()
    assert memory.spare == 4 * 65536
    memory.keep(b"one", 0)
    assert memory.spare == 65536
    memory.keep(b"two", 0)
    assert memory.spare == 0


def test_sizes_are_exact_and_writable():
    memory = PartMemory()
    for size in (1, 65536, 65537, 524288):
        view = memory.allocate(size)
        assert len(view) == size
        assert not view.readonly

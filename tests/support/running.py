"""The tasks that run in the event loop of this process."""

from __future__ import annotations

from collections import Counter

import trio

__all__ = ["running", "tasks"]


def tasks(nursery: trio.Nursery) -> Counter[str]:
    """Those below a nursery, by the name of what they run."""
    found: Counter[str] = Counter()
    for task in nursery.child_tasks:
        found[task.name] += 1
        for below in task.child_nurseries:
            found += tasks(below)
    return found


async def running() -> Counter[str]:
    """All of them; to be called in the loop."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = Counter({root.name: 1})
    for nursery in root.child_nurseries:
        found += tasks(nursery)
    return found

"""What a peer holds: how much is in every container reachable from its objects, and who is named there.

A container's name is the path of attributes to it, with its class first; those that are made once for each
peer, group or round share a name, and what they hold is added up.
"""

from __future__ import annotations

import types
from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Any

from moshgrid.p2p.testing import MemoryNetwork, MemorySwitch

__all__ = ["holdings", "mentions"]

_PLAIN = (str, bytes, bytearray, memoryview, int, float, complex, type(None), type, types.ModuleType)
_CONTAINERS = (dict, list, set, frozenset, deque, tuple)


def holdings(*roots: object) -> Counter[str]:
    """How many elements are in all containers of each name."""
    found: Counter[str] = Counter()
    for name, container in _containers(roots):
        found[name] += len(container)
    return found


def mentions(names: Collection[str], *roots: object) -> dict[str, set[str]]:
    """Which of ``names`` (peer ids) are in the containers of each name: as an element, a key, in a tuple."""
    wanted, found = set(names), dict[str, set[str]]()
    for name, container in _containers(roots):
        here = set[str]()
        for each in container:
            parts = each if isinstance(each, tuple) else (each,)
            here.update(part for part in parts if isinstance(part, str) and part in wanted)
        if here:
            found.setdefault(name, set()).update(here)
    return found


def _containers(roots: Collection[object]) -> list[tuple[str, Collection[Any]]]:
    """Every container once, with its name."""
    found: list[tuple[str, Collection[Any]]] = []
    met: dict[int, object] = {}  # what is met is held on to, so that no id comes twice
    queue = deque((type(root).__name__, root) for root in roots)
    own = [network for root in roots if (network := getattr(root, "network", None)) is not None]
    while queue:
        name, it = queue.popleft()
        if id(it) in met or isinstance(it, _PLAIN):
            continue
        met[id(it)] = it
        if isinstance(it, _CONTAINERS):
            if not isinstance(it, tuple):
                found.append((name, it))
            inner = name if isinstance(it, tuple) else f"{name}[]"
            values = [*it.keys(), *it.values()] if isinstance(it, Mapping) else list(it)
            queue.extend((inner, each) for each in values)
        elif isinstance(it, types.MethodType):
            queue.append((name, it.__self__))
        elif isinstance(it, types.FunctionType):
            cells = [cell for cell in it.__closure__ or () if _is_full(cell)]
            queue.extend((name, cell.cell_contents) for cell in cells)
        elif _is_ours(it, own):
            kind = type(it).__name__
            queue.extend((f"{kind}.{attribute}", value) for attribute, value in _attributes(it).items())
    return found


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_ours(it: object, own: Collection[object]) -> bool:
    """The network between the peers is nobody's, and other peers' ends of it are theirs."""
    if isinstance(it, MemoryNetwork):
        return it in own
    return type(it).__module__.startswith("moshgrid.") and not isinstance(it, MemorySwitch)


def _attributes(it: object) -> dict[str, Any]:
    found = dict(getattr(it, "__dict__", {}))
    for kind in type(it).__mro__:
        slots = getattr(kind, "__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if not slot.startswith("__") and hasattr(it, slot):
                found[slot] = getattr(it, slot)
    return found

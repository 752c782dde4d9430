"""How many files and connections this process may have open."""

from __future__ import annotations

import sys

__all__ = ["descriptor_limit"]


def descriptor_limit() -> int:
    """The soft limit; ``sys.maxsize`` where there is none."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft

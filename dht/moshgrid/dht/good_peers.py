"""Good peers on disk: who answered last time, so that a restart finds the network without bootstrap peers.

The file is replaced as a whole. Whatever else it holds, because it was torn, edited or never ours, is
as if it were not there: nothing in it is believed but that an address may be worth dialling.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MAX_PEERS", "load_addrs", "save_addrs"]

MAX_PEERS = 64
_MAX_BYTES = 256 * 1024
_MAX_ADDR = 512

_log = logging.getLogger("moshgrid.dht")


def load_addrs(path: str | os.PathLike[str], network: str) -> tuple[str, ...]:
    """The addresses that were saved for ``network``; empty when there are none."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("it is too large")
        value = json.loads(data)
        if value["network"] != network:
            return ()
        addrs = value["addrs"]
        if not isinstance(addrs, list):
            raise ValueError("it holds no list of addresses")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _log.warning("the peers in %s cannot be read, starting without: %s", path, error)
        return ()
    good = [a for a in addrs if isinstance(a, str) and len(a) <= _MAX_ADDR and "/p2p/" in a and a.isascii()]
    return tuple(dict.fromkeys(good[:MAX_PEERS]))


def save_addrs(path: str | os.PathLike[str], network: str, addrs: Sequence[str]) -> None:
    """Replaces what was saved; a failure is logged, as the node works without."""
    file = Path(path).expanduser()
    text = json.dumps({"network": network, "addrs": list(addrs[:MAX_PEERS])}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w") as out:
                out.write(text)
            os.replace(aside, file)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        _log.warning("the peers could not be saved in %s: %s", path, error)

"""What both kinds of ``Averager`` are made from: checked arguments, and the run they open."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

from moshgrid.averaging.layout import arrange, codecs_of
from moshgrid.averaging.manifest import MAX_MEMBERS
from moshgrid.averaging.reducers import get_reducer
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.run_core import RunCore
from moshgrid.averaging.schema import Schema
from moshgrid.averaging.topology import topology_by_name
from moshgrid.averaging.vouching import MAX_ADMISSION_BYTES, authority_of
from moshgrid.compression import CodecPlan, get_codec
from moshgrid.dht import DHTNode
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.host import Host
from moshgrid.p2p.link import Link

__all__ = ["Compression", "check_step", "open_run", "run_config", "run_named_by"]


Compression: TypeAlias = str | CodecPlan | Sequence[str]
"""A codec's name, one per array, or a plan that chooses."""


def run_config(
    run_id: str,
    like: Sequence[Any],
    group_size: int,
    min_group_size: int,
    compression: Compression,
    topology: str,
    reducer: str,
    deadline: float | None,
    authority: str | None = None,
    admission: bytes = b"",
    downloads: str | os.PathLike[str] | None = None,
    seats_per_block: int | None = None,
) -> RunConfig:
    """The arguments of an averager, checked. Raises ConfigurationError that says what is allowed."""
    if not isinstance(run_id, str) or not 1 <= len(run_id.encode()) <= 64 or "/" in run_id:
        raise ConfigurationError("run_id must be 1 to 64 bytes of text without '/'")
    if not isinstance(group_size, Integral) or not 2 <= group_size <= MAX_MEMBERS:
        raise ConfigurationError(f"group_size must be 2 to {MAX_MEMBERS}, not {group_size!r}")
    if not isinstance(min_group_size, Integral) or not 2 <= min_group_size <= group_size:
        raise ConfigurationError(
            f"min_group_size must be 2 to group_size ({group_size}), not {min_group_size!r}"
        )
    if deadline is not None and not (isinstance(deadline, Real) and 0 < deadline <= 15):
        raise ConfigurationError(f"deadline must be more than 0 and at most 15 s, not {deadline!r}")
    schema = Schema.of(like)
    if not schema.elements:
        raise ConfigurationError("there is nothing to average: all arrays are empty")
    try:
        layout, order = arrange(_codecs_for(compression, schema.sizes), schema.sizes)
        get_reducer(reducer)
        grouping = topology_by_name(topology, int(group_size))
    except (KeyError, ValueError) as error:
        raise ConfigurationError(error.args[0]) from None
    taken = [set(get_codec(name).dtypes) for name in codecs_of(layout)]
    dtype = schema.wire_dtype(sorted(set.intersection(*taken)))
    if not isinstance(admission, bytes) or len(admission) > MAX_ADMISSION_BYTES:
        raise ConfigurationError(f"admission must be a token of at most {MAX_ADMISSION_BYTES} bytes")
    if seats_per_block is not None and not (isinstance(seats_per_block, Integral) and seats_per_block >= 1):
        raise ConfigurationError(
            f"seats_per_block must be None (no limit) or a whole number from 1, not {seats_per_block!r}"
        )
    if downloads is not None and not isinstance(downloads, str | os.PathLike):
        raise ConfigurationError(f"downloads= takes the path of a folder, not {downloads!r}")
    return RunConfig(
        run_id,
        schema,
        grouping,
        int(group_size),
        int(min_group_size),
        layout,
        order,
        dtype,
        reducer,
        deadline,
        None if seats_per_block is None else int(seats_per_block),
        None if authority is None else authority_of(str(authority)),
        admission,
        None if downloads is None else Path(downloads).expanduser(),
    )


def _codecs_for(compression: Compression, sizes: Sequence[int]) -> tuple[str, ...]:
    """The codec's name for each array. Raises KeyError or ValueError."""
    if isinstance(compression, CodecPlan):
        return compression.choose(sizes)
    if not isinstance(compression, Sequence):
        raise ValueError(f"compression is a codec's name, one per array or a CodecPlan, not {compression!r}")
    names = (compression,) * len(sizes) if isinstance(compression, str) else tuple(compression)
    if len(names) != len(sizes):
        raise ValueError(f"compression names {len(names)} codecs for {len(sizes)} arrays")
    for name in names:
        get_codec(name)
    return names


def run_named_by(link: str | Link, run_id: str | None) -> str:
    """The run to join: ``run_id``, or the one that the link names."""
    named = run_id or (link if isinstance(link, Link) else Link.parse(link)).run
    if named is None:
        raise ConfigurationError(
            "which run? Give run_id=…, or a link that names it: moshgrid://NETWORK/RUN@HOST:PORT/PEER"
        )
    return named


async def open_run(host: Host, config: RunConfig) -> RunCore:
    """Starts the run at a host, in its event loop."""
    core = RunCore(host, await DHTNode.of(host), config)
    await core.start()
    return core


def check_step(weight: float, rounds: int) -> tuple[float, int]:
    """The weight and number of rounds of a step. Raises ConfigurationError where they make no sense."""
    if not isinstance(weight, Real) or not (math.isfinite(weight) and 0 <= weight <= 1e9):
        raise ConfigurationError(f"weight must be a number from 0 to 1e9, not {weight!r}")
    if not isinstance(rounds, Integral) or not 1 <= rounds <= 64:
        raise ConfigurationError(f"rounds must be 1 to 64, not {rounds!r}")
    return float(weight), int(rounds)

"""``moshgrid pull``: writes the checkpoints of a run that others train, without taking part in it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trio
from safetensors.torch import save

from moshgrid.averaging.chunk_transfer import ProgressSink
from moshgrid.averaging.kept_download import KeptDownload
from moshgrid.averaging.landing import Landing
from moshgrid.averaging.part_work import in_threads
from moshgrid.averaging.run_config import run_digest
from moshgrid.averaging.state import NamedDescription
from moshgrid.averaging.state_transfer import StateClient
from moshgrid.averaging.vouching import Trust, authority_of
from moshgrid.dht import DHTNode
from moshgrid.p2p import ConfigurationError, Link, MoshgridError, Node, PeerId
from moshgrid.p2p.host import Host
from moshgrid.swarm.checkpoint import write_whole
from moshgrid.swarm.progress_bar import downloading
from moshgrid.swarm.state_exchange import STATE_PART, to_tensors

__all__ = ["Pulled", "lines", "pull"]

_MEMBER_KEYS = ("identity", "training", "members")
_JOIN_SECONDS = 20.0
_LOOK_SECONDS = 1.0
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Pulled:
    """One checkpoint that was written."""

    run: str
    round: int
    file: str
    bytes: int
    tensors: int
    donors: int
    seconds: float


def pull(
    link: str,
    out: Path,
    every: int | None,
    report: Callable[[Pulled], None],
    node_options: dict[str, Any] | None = None,
) -> None:
    """Writes ``out``/round-NNNNNN.safetensors and .json, once or each time ``every`` rounds went by.

    What has come when it is interrupted stays in ``out``, for the next time.
    Raises ConfigurationError for a link without a run, MoshgridError when nobody has a state.
    """
    parsed = Link.parse(link)
    if parsed.run is None:
        raise ConfigurationError(
            "which run? The link must name it: moshgrid://NETWORK/RUN@HOST:PORT/PEER (and quote it: # and @)"
        )
    with Node.from_link(parsed, **(node_options or {})) as node:
        last = None
        while True:
            pulled = _one(node, parsed, out, None if last is None else last + (every or 1))
            if pulled is not None:
                last = pulled.round
                report(pulled)
            if every is None:
                return
            time.sleep(_LOOK_SECONDS)


def _one(node: Node, link: Link, out: Path, at_least: int | None) -> Pulled | None:
    """The newest state, written; None when it is of a round before ``at_least``."""
    began = time.monotonic()
    with downloading(f"state of {link.run}", None) as bar:
        found = node.call(_fetch, node.host, link, out, bar, at_least)
    if found is None:
        return None
    landing, donors = found
    number = landing.description.round
    tensors = _tensors(landing)
    file = out / f"round-{number:06d}.safetensors"
    meta = dict(landing.named().meta) if isinstance(landing.description, NamedDescription) else {}
    seconds = round(time.monotonic() - began, 3)
    size = sum(tensor.nbytes for tensor in tensors.values())
    pulled = Pulled(str(link.run), number, str(file), size, len(tensors), len(donors), seconds)
    try:
        write_whole(file, save(tensors, {"run": str(link.run), "round": str(number)}))
        text = json.dumps({**asdict(pulled), "donors": list(donors), "meta": meta}, indent=1)
        write_whole(file.with_suffix(".json"), text.encode())
    except OSError as error:
        raise MoshgridError(
            f"{file} cannot be written: {error.strerror}; free space or give another --out"
        ) from None
    return pulled


async def _fetch(
    host: Host, link: Link, out: Path, progress: ProgressSink, at_least: int | None
) -> tuple[Landing, tuple[PeerId, ...]] | None:
    assert link.run is not None
    dht = await DHTNode.of(host)
    await dht.joined(_JOIN_SECONDS)
    trust = Trust(host.network_name, None if link.authority is None else authority_of(link.authority))
    for attempt in range(_TRIES if at_least is None else 1):
        if attempt:
            await trio.sleep(_LOOK_SECONDS)
        peers = [peer async for peer in _members(dht, link.run)]
        for name in (link.run + STATE_PART, link.run):
            digest = run_digest(host.network_name, name)
            kept = KeptDownload(out / f".{digest.hex()}.download")
            client = StateClient(host, digest, trust, None, partial(tuple, peers), kept=kept)
            found = await client.newest(progress, at_least=at_least or 0)
            if found is not None:
                await in_threads(kept.discard)  # at once: the disk may have no room for both
                return found
    if at_least is not None:
        return None
    raise MoshgridError(
        f"nobody in run {link.run!r} gives a state (asked {len(peers)} peers). Is its name right, and has "
        "it finished a round? Try:  moshgrid dht get avg/" + link.run + "/training"
    )


async def _members(dht: DHTNode, run: str) -> AsyncIterator[PeerId]:
    seen = {dht.host.peer_id}
    for key in _MEMBER_KEYS:
        try:
            records = await dht.get_all(f"avg/{run}/{key}")
        except MoshgridError:
            continue
        for record in records.values():
            if not record.deleted and record.author not in seen:
                seen.add(record.author)
                yield record.author


def _tensors(landing: Landing) -> dict[str, torch.Tensor]:
    if isinstance(landing.description, NamedDescription):
        return to_tensors(landing.named())[0]
    return {"values": torch.from_numpy(landing.vector())}


def lines(as_json: bool) -> Callable[[Pulled], None]:
    """Says what was written: JSON lines, or a sentence."""

    def say(pulled: Pulled) -> None:
        if as_json:
            print(json.dumps(asdict(pulled)), flush=True)
        else:
            print(
                f"round {pulled.round}: {pulled.bytes:,} bytes in {pulled.tensors} tensors from "
                f"{pulled.donors} peers, verified, in {pulled.seconds:.1f} s: {pulled.file}",
                file=sys.stdout,
                flush=True,
            )

    return say

"""Progress tracker: this peer's records of a training in the DHT, and the others' summed up. Awaits.

Two keys: ``identity`` (which tensors and protocol; checked once, on joining) and ``training`` (epoch,
samples, samples/s). Both are the members' own signed records, which expire a minute after they vanish.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import trio

from moshgrid.dht import DHTNode, Keep, Record
from moshgrid.p2p import MoshgridError, Node, PeerId
from moshgrid.p2p.blobs import MAX_BLOB_BYTES, Blobs
from moshgrid.p2p.host import Host
from moshgrid.swarm import log_lines
from moshgrid.swarm.run_identity import Identity, TensorEntry, compare, decode_listing, listing_of, mismatch
from moshgrid.swarm.swarm_progress import PROGRESS_TTL, ProgressReport, SwarmProgress, SwarmView

__all__ = ["ProgressTracker", "TrainingRecords"]

_IDENTITY_TTL = 60.0
_JOIN_SECONDS = 10.0
_RETRY_SECONDS = 2.0
_LEAVE_SECONDS = 1.0
_BLOB_DONORS = 3

_log = logging.getLogger("moshgrid.swarm")


class TrainingRecords:
    """The part that lives in the event loop. ``progress`` may be read from other threads under ``lock``."""

    def __init__(
        self,
        host: Host,
        dht: DHTNode,
        run_id: str,
        progress: SwarmProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._dht = dht
        self._run_id = run_id
        self.progress = progress
        self._now = clock
        self.lock = threading.Lock()
        self._identity: Keep | None = None
        self._training: Keep | None = None
        self._closed = trio.CancelScope()

    @classmethod
    async def open(cls, host: Host, run_id: str, entries: Sequence[TensorEntry]) -> Self:
        """Joins a training. Raises SchemaMismatch or VersionMismatch when it is another one."""
        records = cls(host, await DHTNode.of(host), run_id, SwarmProgress())
        await records.join(entries)
        return records

    async def join(self, entries: Sequence[TensorEntry]) -> None:
        """Compares identities with who is there, then says what this peer has."""
        await self._dht.joined(_JOIN_SECONDS)
        listing = listing_of(entries)
        mine = Identity.of(listing, len(entries))
        others: dict[PeerId, Identity] = {}
        try:
            for record in (await self._dht.get_all(self._key("identity"))).values():
                identity = None if record.deleted else Identity.from_value(record.value)
                if identity is not None and record.author != self._host.peer_id:
                    others[record.author] = identity
            for record in (await self._dht.get_all(self._key("training"))).values():
                self._heard(record)
        except MoshgridError as error:
            _log.warning(log_lines.unreadable(self._run_id, str(error)))
        run = compare(mine, others)
        if run is not None:
            holders = [peer for peer, identity in others.items() if identity == run]
            raise mismatch(self._run_id, mine, run, entries, await self._listing(run.digest, holders))
        if len(listing) <= MAX_BLOB_BYTES:
            Blobs.of(self._host).keep(listing)
        self._identity = self._dht.keep(self._key("identity"), mine.to_value(), ttl=_IDENTITY_TTL)
        self._host.nursery.start_soon(self._follow)

    async def publish(self, report: ProgressReport) -> None:
        """Tells the swarm how far this peer is."""
        try:
            if self._training is None:
                self._training = self._dht.keep(self._key("training"), report.to_value(), ttl=PROGRESS_TTL)
            else:
                await self._training.update(report.to_value())
        except MoshgridError as error:
            _log.debug("progress could not be published: %s", error)

    async def aclose(self) -> None:
        """Takes this peer's records back."""
        self._closed.cancel()
        with trio.move_on_after(_LEAVE_SECONDS):
            for keep, path in ((self._identity, "identity"), (self._training, "training")):
                if keep is not None:
                    await keep.aclose()
                    try:
                        await self._dht.delete(self._key(path))
                    except MoshgridError as error:
                        _log.debug("could not take the run's records back: %s", error)

    async def _listing(self, digest: bytes, holders: Sequence[PeerId]) -> list[TensorEntry] | None:
        for peer in holders[:_BLOB_DONORS]:
            try:
                return decode_listing(await Blobs.of(self._host).fetch(digest, peer, MAX_BLOB_BYTES))
            except (MoshgridError, ValueError) as error:
                _log.debug("no list of tensors from %s: %s", peer, error)
        return None

    async def _follow(self) -> None:
        with self._closed:
            while True:
                try:
                    async with self._dht.watch(self._key("training")) as records:
                        async for record in records:
                            self._heard(record)
                except MoshgridError:
                    pass
                await trio.sleep(_RETRY_SECONDS)

    def _heard(self, record: Record) -> None:
        if record.author == self._host.peer_id:
            return
        report = None if record.deleted else ProgressReport.from_value(record.value)
        with self.lock:
            if report is None:
                self.progress.gone(record.author)
            else:
                self.progress.heard(record.author, report, self._now())

    def _key(self, path: str) -> str:
        return f"avg/{self._run_id}/{path}"


class ProgressTracker:
    """The same for the thread that trains: nothing here waits for the network but opening and closing."""

    def __init__(self, node: Node, run_id: str, entries: Sequence[TensorEntry]) -> None:
        self._node = node
        self._records = node.call(TrainingRecords.open, node.host, run_id, entries)
        self._publish(time.monotonic())

    def aim(self, target: int) -> None:
        """Synchronisations are due when the swarm has accumulated ``target`` samples."""
        with self._records.lock:
            self._records.progress.target = target

    def counted(self, samples: int) -> None:
        """This peer has trained on so many more samples; tells the swarm now and then."""
        now = time.monotonic()
        with self._records.lock:
            self._records.progress.counted(samples, now)
        self._publish(now)

    def entered(self, epoch: int, carried_over: int = 0) -> None:
        """This peer is in ``epoch`` now; tells the swarm at once."""
        now = time.monotonic()
        with self._records.lock:
            self._records.progress.entered(epoch, now, carried_over)
        self._publish(now)

    def due(self) -> bool:
        """Whether the swarm has accumulated the target."""
        with self._records.lock:
            return self._records.progress.due(time.monotonic())

    def view(self) -> SwarmView:
        """The swarm now."""
        with self._records.lock:
            return self._records.progress.view(time.monotonic())

    def peers(self) -> list[PeerId]:
        """Who has told of its progress lately."""
        with self._records.lock:
            return self._records.progress.peers(time.monotonic())

    @property
    def own(self) -> ProgressReport:
        """What this peer says of itself."""
        return self._records.progress.own

    def close(self) -> None:
        """Takes this peer's records back."""
        self._node.call(self._records.aclose)

    def _publish(self, now: float) -> None:
        with self._records.lock:
            report = self._records.progress.to_publish(now)
        if report is not None:
            self._node.soon(self._records.publish, report)

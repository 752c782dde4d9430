"""A download kept on disk: the chunks of a state that have come, for a process that is started again.

One file per state: a description, then chunks as they came. Nothing of it is believed: a chunk counts when
its digest is the one that the description names which is downloaded now, and reading ends where one does not
fit. So a torn, a damaged and an outdated file cost what is downloaded again, and nothing else.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from moshgrid.averaging.landing import Landing
from moshgrid.averaging.state import Brief, Chunk, StateDescription, brief_of, is_chunk_of

__all__ = ["KeptDownload"]

_MAGIC = b"moshgrid download 1\n"
_LENGTH = struct.Struct("<I")
_CHUNK = struct.Struct("<IQ")
_MAX_DESCRIPTION = 5 * 1024 * 1024
_DESCRIPTION: msgspec.msgpack.Decoder[StateDescription] = msgspec.msgpack.Decoder(StateDescription)

_log = logging.getLogger("moshgrid.averaging")


class KeptDownload:
    """``file`` holds at most one state. Methods read and write: to be called in a worker thread, in turn.

    Where it cannot be written the log says so, and the download goes on without.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._out: BinaryIO | None = None
        self._held: set[int] = set()

    def begun(self) -> Brief | None:
        """The state that the file holds chunks of."""
        try:
            with self._file.open("rb") as source:
                description = _description(source)
        except OSError:
            return None
        return None if description is None else brief_of(description)

    def resume(self, landing: Landing) -> None:
        """Puts into ``landing`` what the file holds of its state; keeps what ``add`` gives from now on."""
        self.close()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._out = self._continued(landing) or self._replaced(landing)
        except OSError as error:
            self._fail(error)

    def add(self, part: int, chunk: Chunk) -> None:
        """Keeps a chunk that was checked."""
        if self._out is None or part in self._held:
            return
        try:
            _append(self._out, part, chunk)
        except OSError as error:
            self._fail(error)
        else:
            self._held.add(part)

    def close(self) -> None:
        """Writes nothing more."""
        out, self._out, self._held = self._out, None, set()
        if out is not None:
            out.close()

    def discard(self) -> None:
        """The state is in use, or of no use: the file is deleted."""
        self.close()
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be deleted: %s", self._file, error.strerror)

    def _continued(self, landing: Landing) -> BinaryIO | None:
        """The file, if it is of this very state, after its last good chunk."""
        try:
            file = self._file.open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        try:
            description = _description(file)
            if description is not None and description.id == landing.description.id:
                self._take(file, description, landing)
                file.truncate(file.tell())
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _replaced(self, landing: Landing) -> BinaryIO:
        """A new file, with what is the same in the old one; in its place once that is in it."""
        draft = self._file.with_name(f".{self._file.name}.draft")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        out = os.fdopen(handle, "r+b", buffering=0)
        try:
            encoded = msgspec.msgpack.encode(landing.description)
            _write(out, _MAGIC + _LENGTH.pack(len(encoded)) + encoded)
            if self._file.exists():
                with self._file.open("rb") as old:
                    description = _description(old)
                    if description is not None:
                        self._take(old, description, landing, out)
            os.replace(draft, self._file)
        except BaseException:
            out.close()
            draft.unlink()
            raise
        return out

    def _take(
        self, source: BinaryIO, described: StateDescription, landing: Landing, copy: BinaryIO | None = None
    ) -> None:
        """Leaves ``source`` after its last good chunk. What ``landing`` takes is written to ``copy``, too."""
        wanted, lengths = landing.description.digests, landing.description.lengths
        for part, chunk in _chunks(source, described):
            is_wanted = part < len(wanted) and wanted[part] == described.digests[part]
            if is_wanted and part not in self._held and len(chunk.data) == lengths[part]:
                landing.put(part, chunk)
                self._held.add(part)
                if copy is not None:
                    _append(copy, part, chunk)

    def _fail(self, error: OSError) -> None:
        self.close()
        _log.warning(
            "a download cannot be kept in %s (%s); it goes on, but if this process ends it starts anew",
            self._file,
            error.strerror,
        )


def _description(source: BinaryIO) -> StateDescription | None:
    """What stands at the beginning of a file; None when it is no such file."""
    head = source.read(len(_MAGIC) + _LENGTH.size)
    if len(head) != len(_MAGIC) + _LENGTH.size or not head.startswith(_MAGIC):
        return None
    (length,) = _LENGTH.unpack(head[len(_MAGIC) :])
    if length > _MAX_DESCRIPTION:
        return None
    try:
        description = _DESCRIPTION.decode(source.read(length))
    except msgspec.MsgspecError:
        return None
    return description if description.is_sound else None


def _chunks(source: BinaryIO, description: StateDescription) -> Iterator[tuple[int, Chunk]]:
    """The good chunks, up to the first that is not; ``source`` is then after the last of them."""
    good = source.tell()
    while len(head := source.read(_CHUNK.size)) == _CHUNK.size:
        part, contributors = _CHUNK.unpack(head)
        if part >= len(description.digests):
            break
        chunk = Chunk(contributors, source.read(description.lengths[part]))
        if not is_chunk_of(description, part, chunk):
            break
        good = source.tell()
        yield part, chunk
    source.seek(good)


def _append(out: BinaryIO, part: int, chunk: Chunk) -> None:
    _write(out, _CHUNK.pack(part, chunk.contributors))
    _write(out, chunk.data)


def _write(out: BinaryIO, data: bytes) -> None:
    """All of it: an unbuffered file may take less at a time."""
    view = memoryview(data)
    while view.nbytes:
        view = view[out.write(view) :]

"""What a request protocol is: its id, its message types, its limits, and what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from moshgrid.p2p.identity import PeerId

__all__ = ["RequestHandler", "Service"]

Query = TypeVar("Query")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Service(Generic[Query, Answer]):
    """A request protocol: its id, its message types and its limits."""

    protocol: str
    """``/moshgrid/<service>/<version>``."""
    query: Any
    """A msgspec struct, or a union of tagged ones."""
    answer: Any
    """The same for what comes back."""
    max_query: int = 16 * 1024
    """Bytes of an encoded query."""
    max_answer: int = 128 * 1024
    """Bytes of an encoded answer."""
    deadline: float = 10.0
    """Seconds a handler may take, and the default wait of a caller."""
    concurrency: int = 32
    """Queries of one peer in work at once; more are refused."""
    rate: float = 2000.0
    """Queries a second of one peer in the long run; more are not read until it is their turn."""
    burst: float = 4000.0
    """Queries of one peer that may come faster than that, after a pause."""
    streams: int = 8
    """Streams of one peer; more are reset."""
    read_seconds: float = 10.0
    """From the first byte of a query to its last."""
    first_seconds: float = 60.0
    """From a stream's first moment until its first query begins; after that it may be idle."""

    @cached_property
    def query_decoder(self) -> msgspec.msgpack.Decoder[Any]:
        """Decodes queries."""
        return msgspec.msgpack.Decoder(self.query)

    @cached_property
    def answer_decoder(self) -> msgspec.msgpack.Decoder[Any]:
        """Decodes answers."""
        return msgspec.msgpack.Decoder(self.answer)


RequestHandler = Callable[[PeerId, Query], Awaitable[Answer] | Answer]
"""Answers one query. Raising MoshgridError refuses it with that text; the stream goes on.

One that need not wait for anything returns its answer instead of something to await: no task is made for it.
"""

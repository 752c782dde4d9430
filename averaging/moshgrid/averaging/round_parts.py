"""The bytes of a round at one member: what came, what was made of it, and the work of making it.

Tells the round's machine what happened by events; the work itself runs in worker threads.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from moshgrid.averaging.effects import (
    MemberLost,
    PartArrived,
    Reduce,
    Reduced,
    ResultArrived,
    RoundEvent,
    SendPart,
)
from moshgrid.averaging.exchange import MAX_VERSIONS
from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.messages import PartData, ResultData
from moshgrid.averaging.part_memory import PartMemory, Payload
from moshgrid.averaging.part_work import Offload, PartWork, inline
from moshgrid.averaging.reduction import (
    Average,
    apply_results,
    average_part,
    encode_part,
    relative_error,
    result_digest,
)
from moshgrid.compression import CodecError

__all__ = ["RoundParts", "RoundResult"]

_AHEAD = 4
"""Parts that are encoded for a member before the link has taken them: enough to keep it busy, and few enough
that they are still in the processor's cache when they are encrypted."""


@dataclass
class RoundResult:
    """What a round leaves behind."""

    committed: bool = False
    """True when the sealed average was written into the arrays."""
    reason: str = ""
    digest: str = ""
    value: tuple[bytes, ...] = ()
    """Per part the digest that was sealed."""
    results: list[tuple[int, Payload]] = field(default_factory=list)
    """Per part the contributor bitmap and the encoded bytes that were sealed."""
    bytes_sent: int = 0
    bytes_received: int = 0
    saturated: int = 0
    squared_error: float = 0.0
    squared_norm: float = 0.0

    @property
    def compression_error(self) -> float:
        """Over a sample of the parts averaged here."""
        return relative_error(self.squared_error, self.squared_norm)


class RoundParts:
    """Own values come from ``arrays`` until ``close``; ``put`` takes events, ``send`` encoded own values and
    what to call when they are on their way."""

    def __init__(
        self,
        signed: SignedManifest,
        me: int,
        arrays: FlatArrays,
        memory: PartMemory,
        offload: Offload,
        put: Callable[[RoundEvent], None],
        send: Callable[[int, PartData, Payload, Callable[[], None]], None],
    ) -> None:
        self._signed = signed
        self._me = me
        self._arrays = arrays
        self._memory = memory
        self._offload = offload
        self._put = put
        self._send = send
        self._inputs: dict[tuple[int, int], Payload] = {}
        """By sender and part; empty once the part was averaged here."""
        self._results: dict[tuple[int, bytes], tuple[int, Payload]] = {}
        self._versions: Counter[int] = Counter()
        self._unsent: defaultdict[int, deque[SendPart]] = defaultdict(deque)
        self._ahead: Counter[int] = Counter()
        # Where each value is encoded by itself it takes less than the way to a thread and back.
        is_quick = all(span.codec.properties.elementwise for span in signed.parts)
        self._encoding = PartWork(inline if is_quick else offload, self._encode, self._encoded)
        self._averaging = PartWork(offload, self._average, self._averaged)
        self._closed = False
        self.result = RoundResult()

    def open(self, nursery: trio.Nursery) -> None:
        """Begins to work; a bug in it is raised in ``nursery``."""
        for work in (self._encoding, self._averaging):
            work.open(nursery)

    def close(self) -> None:
        """The arrays are the caller's again: nothing is read from them any more."""
        self._closed = True

    def end(self) -> None:
        """The round needs nothing more: forgets values and results, which are large, and takes nothing on."""
        for work in (self._encoding, self._averaging):
            work.close()
        self._inputs.clear()
        self._results.clear()

    # What came --------------------------------------------------------------------------------------

    def arrived(self, member: int, message: PartData | ResultData, payload: Payload) -> None:
        """Values or a result came; what the manifest does not allow costs the sender its seat."""
        part = message.part
        if not 0 <= part < len(self._signed.parts):
            self._refuse(member, f"named a part {part} that does not exist")
        elif len(payload) != self._signed.part_bytes(part):
            self._refuse(member, f"sent {len(payload)} bytes for part {part}")
        elif isinstance(message, ResultData):
            self._result_arrived(member, message, payload)
        elif (member, part) in self._inputs:
            self._refuse(member, f"sent its values of part {part} twice")
        elif self._signed.manifest.members[member].weight == 0:
            self._refuse(member, "sent values, though it has no weight in this round")
        else:
            self._inputs[member, part] = payload
            self.result.bytes_received += len(payload)
            self._put(PartArrived(member, part))

    def _result_arrived(self, member: int, message: ResultData, payload: Payload) -> None:
        part, contributors, digest = message.part, message.contributors, message.digest
        fault = ""
        if not 0 < contributors < 1 << len(self._signed.peers):
            fault = f"named contributors that do not exist for part {part}"
        elif result_digest(part, contributors, payload) != digest:
            fault = f"sent a result of part {part} that does not fit its digest"
        elif (part, digest) not in self._results:
            self._versions[part] += 1
            if self._versions[part] > MAX_VERSIONS:
                fault = f"sent one more result of part {part} than there can be"
            else:
                self._results[part, digest] = (contributors, payload)
        self.result.bytes_received += len(payload)
        if fault:
            self._refuse(member, fault)
        else:
            self._put(ResultArrived(member, part, digest))

    def _refuse(self, member: int, reason: str) -> None:
        self._put(MemberLost(member, reason, refused=True))

    # What is asked for ------------------------------------------------------------------------------

    def held(self, part: int, digest: bytes) -> tuple[int, Payload]:
        """A result that is kept: its contributor bitmap and its bytes."""
        return self._results[part, digest]

    def encode(self, wanted: SendPart) -> None:
        """Has own values encoded and sent, after what was asked for before it."""
        self._unsent[wanted.member].append(wanted)
        self._encode_ahead(wanted.member)

    def _encode_ahead(self, member: int) -> None:
        unsent = self._unsent[member]
        while unsent and self._ahead[member] < _AHEAD:
            self._ahead[member] += 1
            self._encoding.add(unsent.popleft())

    def _encode(self, wanted: SendPart) -> tuple[Payload, int]:
        return encode_part(self._signed, self._arrays, wanted.part, self._memory)

    def _encoded(self, wanted: SendPart, encoded: tuple[Payload, int]) -> None:
        if self._closed:
            return  # the values may have changed while they were read
        data, saturated = encoded
        self.result.saturated += saturated
        self._send(wanted.member, PartData(wanted.part), data, lambda: self._sent(wanted.member))

    def _sent(self, member: int) -> None:
        self._ahead[member] -= 1
        if not self._closed:
            self._encode_ahead(member)

    def reduce(self, wanted: Reduce) -> None:
        """Has a part averaged."""
        self._averaging.add(wanted)

    def _average(self, wanted: Reduce) -> Average | None:
        inputs = {
            member: None if member == self._me else self._inputs[member, wanted.part]
            for member in wanted.contributors
        }
        return average_part(self._signed, wanted.part, inputs, self._arrays, self._memory)

    def _averaged(self, wanted: Reduce, average: Average | None) -> None:
        part = wanted.part
        if self._closed:
            return
        if average is None:
            for member in wanted.contributors:
                self._refuse(member, "sent values that cannot be used")
            self._put(Reduced(part, b"", wanted.contributors))
            return
        for member in wanted.contributors:
            if member != self._me:
                self._inputs[member, part] = b""  # its memory is wanted for what comes next
        for member, reason in average.refused.items():
            self._refuse(member, reason)
        self._results[part, average.digest] = (average.contributors, average.data)
        self.result.squared_error += average.squared_error
        self.result.squared_norm += average.squared_norm
        self._put(Reduced(part, average.digest, tuple(average.refused)))

    async def apply(self, value: tuple[bytes, ...]) -> None:
        """Writes the results that ``value`` names into the arrays; all of them, or nothing."""
        results = [self._results[part, digest] for part, digest in enumerate(value)]
        try:
            self.result.digest = await self._offload(
                apply_results, self._signed, [data for _, data in results], self._arrays
            )
        except CodecError as error:
            self.result.reason = f"the group agreed on bytes that no average encodes to: {error}"
            return
        self.result.value, self.result.results = value, results
        self.result.committed = True

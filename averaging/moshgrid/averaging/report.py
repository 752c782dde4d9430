"""The report of a round: what came of one ``step``, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from moshgrid.averaging.layout import codecs_of
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.round_parts import RoundResult
from moshgrid.p2p.identity import PeerId

__all__ = ["RoundReport", "report_of"]


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What happened in a round. ``str(report)`` is one line for a person."""

    round: int
    """The round's number in the run; also set when no group came about."""
    group: tuple[PeerId, ...] = ()
    """The roster, leader first; empty when no group came about."""
    contributors: dict[PeerId, float] = field(default_factory=dict)
    """Peer → share of the elements whose average it is in, 0 … 1."""
    dropped: dict[PeerId, str] = field(default_factory=dict)
    """Peer → why it was lost during the round."""
    committed: bool = False
    """True when the average was applied; otherwise the arrays are unchanged."""
    reason: str = ""
    """Why nothing was applied; empty when committed."""
    completeness: float = 0.0
    """Mean over the elements of (contributors in its average ÷ members that have a weight)."""
    digest: str = ""
    """blake3 of the applied bytes, hex; equal for all members that committed."""
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds_matching: float = 0.0
    """From the call to the manifest."""
    seconds_reducing: float = 0.0
    """From the manifest to the applied result."""
    compression_error: float = 0.0
    """Relative root-mean-square error that encoding added to the parts this peer averaged."""
    saturated: int = 0
    """Own values that did not fit the codec's range and were clipped."""
    codec: str = ""
    """The codec, or several joined by ``+``."""
    reference: str = ""
    """Hex digest of the state that was subtracted before encoding; empty when none was."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {**asdict(self), "group": list(self.group)}

    def followed_by(self, last: RoundReport) -> RoundReport:
        """The report of a later round with the bytes, seconds and losses of this one added."""
        return replace(
            last,
            dropped={**self.dropped, **last.dropped},
            bytes_sent=self.bytes_sent + last.bytes_sent,
            bytes_received=self.bytes_received + last.bytes_received,
            seconds_matching=self.seconds_matching + last.seconds_matching,
            seconds_reducing=self.seconds_reducing + last.seconds_reducing,
        )

    def __str__(self) -> str:
        if not self.committed:
            return f"round {self.round}: not averaged, tensors unchanged: {self.reason}"
        others = len(self.group) - 1
        reached = sum(share > 0 for share in self.contributors.values()) - 1
        seconds = self.seconds_matching + self.seconds_reducing
        text = (
            f"round {self.round}: averaged with {max(reached, 0)} of {others} "
            f"{'peer' if others == 1 else 'peers'} in {seconds:.1f} s, "
            f"sent {_size(self.bytes_sent)} ({self.codec})"
        )
        for peer, why in self.dropped.items():
            text += f"; {peer[:4]}…{peer[-4:]} left mid-round ({why})"
        return text


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def report_of(
    signed: SignedManifest, lost: Mapping[int, str], accused: Mapping[int, str], result: RoundResult
) -> RoundReport:
    """What a round's manifest, losses (by roster index) and result amount to; without its times.

    ``accused``: of whom others say that they refused its values. That counts where the result bears it out.
    """
    peers, members = signed.peers, signed.manifest.members
    weighted = [index for index, member in enumerate(members) if member.weight > 0]
    elements = dict.fromkeys(weighted, 0)
    for span, (bitmap, _) in zip(signed.parts, result.results, strict=False):
        for index in weighted:
            if bitmap >> index & 1:
                elements[index] += span.elements
    shares = {index: count / signed.manifest.elements for index, count in elements.items()}
    borne_out = {index: said for index, said in accused.items() if shares.get(index, 1.0) < 1.0}
    return RoundReport(
        round=signed.manifest.round,
        group=peers,
        contributors={peers[index]: share for index, share in shares.items()},
        dropped={peers[index]: reason for index, reason in {**borne_out, **lost}.items()},
        committed=result.committed,
        reason=result.reason,
        completeness=sum(shares.values()) / len(weighted),
        digest=result.digest,
        bytes_sent=result.bytes_sent,
        bytes_received=result.bytes_received,
        compression_error=result.compression_error,
        saturated=result.saturated,
        codec="+".join(codecs_of(signed.manifest.codec)),
        reference=signed.manifest.reference.hex(),
    )

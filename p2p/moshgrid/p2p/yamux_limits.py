"""What a yamux session allows its peer, in one value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["YamuxLimits"]


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """Bounds of one connection; the defaults suit honest peers with a thousand streams."""

    inbound_streams: int = 1024
    """Streams that the peer may hold open; more are refused with a reset."""
    outbound_streams: int = 1024
    """Streams that we may hold open; more are an error."""
    opens_per_second: float = 100.0
    """Streams that the peer may open in the long run; more are refused with a reset."""
    open_burst: float = 1280.0
    first_bytes_seconds: float = 10.0
    """A stream that the peer opened is reset when nothing comes on it for so long."""
    pings_per_second: float = 10.0
    """Pings that are answered; more are ignored."""
    nuisances_per_second: float = 100.0
    """Refused streams, ignored pings and frames for streams long over; more cut the connection."""
    nuisance_burst: float = 1024.0
    nuisances_heard_per_second: float = 2000.0
    """Of a peer that has sent more of them at once than ``nuisances_heard_at_once``: it is read slower."""
    nuisances_heard_at_once: float = 512.0
    growth: int = 64 * 1024 * 1024
    """What the receive windows of all streams together may grow beyond their first 256 KiB."""
    buffered: int = 128 * 1024 * 1024
    """Unread bytes of all streams together; the stream that goes beyond is reset."""
    control_frames: int = 8192
    """Small frames that wait for a peer that does not read; more cut the connection."""
    frames_per_turn: int = 32
    """Frames taken in at once, a new stream's first bytes for seventeen: a flood leaves others turns."""

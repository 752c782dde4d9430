"""How often a peer may cause work outside its streams: opening, pinging, speaking of what is over."""

from __future__ import annotations

from moshgrid.p2p.token_bucket import TokenBucket
from moshgrid.p2p.yamux_frames import INITIAL_WINDOW
from moshgrid.p2p.yamux_limits import YamuxLimits

__all__ = ["OVER_WINDOW", "TIRED", "Guard"]

OVER_WINDOW = "sent more than its window allows"
TIRED = "kept on with pings, refused streams or frames for streams long over"
_REMEMBERED = 2048
_REST_SECONDS = 0.02


class Guard:
    """Counts what one peer does. What it refuses costs patience; without patience the session ends.

    Whoever is a nuisance often is listened to less: nobody else should pay for the refusals.
    """

    def __init__(self, limits: YamuxLimits, now: float) -> None:
        self._opens = TokenBucket(limits.opens_per_second, limits.open_burst, now)
        self._pings = TokenBucket(limits.pings_per_second, limits.pings_per_second, now)
        self._patience = TokenBucket(limits.nuisances_per_second, limits.nuisance_burst, now)
        self._pace = TokenBucket(limits.nuisances_heard_per_second, limits.nuisances_heard_at_once, now)
        self._gone: dict[int, int] = {}
        self.rests_until = now
        """Nothing more should be taken in before."""

    def admits_stream(self, stream_id: int, now: float) -> bool:
        """True when the peer may open one more now."""
        self._gone.pop(stream_id, None)
        return self._opens.take(now)

    def admits_ping(self, now: float) -> bool:
        """True when a ping is to be answered."""
        return self._pings.take(now)

    def annoyed(self, now: float) -> str | None:
        """Takes note of a nuisance; the fault when it was one too many."""
        if (wait := self._pace.reserve(now)) >= _REST_SECONDS:
            self.rests_until = now + wait
        return None if self._patience.take(now) else TIRED

    def remember(self, stream_id: int, credit: int) -> None:
        """We reset a stream; the peer may have sent ``credit`` bytes more before it hears of it."""
        self._gone[stream_id] = credit
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def late_data(self, stream_id: int, length: int, now: float) -> str | None:
        """Takes note of data for a stream that is over, to be dropped; the fault if it is one."""
        credit = self._gone.get(stream_id)
        if credit is None and length <= INITIAL_WINDOW:
            return self.annoyed(now)
        if credit is None or length > credit:
            return OVER_WINDOW
        self._gone[stream_id] = credit - length
        return None

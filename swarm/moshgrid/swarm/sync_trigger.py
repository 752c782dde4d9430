"""Sync triggers: after which inner steps a fragment of the model is averaged, and when the result is taken.

Pure. DiLoCo (Douillard et al. 2023) averages everything every ``sync_every`` steps; Streaming DiLoCo
(Douillard et al. 2025) has fragments take turns, and takes a result ``delay`` steps after it began.
"""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.p2p import ConfigurationError

__all__ = ["EverySteps", "Take"]


@dataclass(frozen=True, slots=True)
class Take:
    """Apply what averaging a fragment brought. ``wait``: for its end, should it still go on."""

    fragment: int
    wait: bool


class EverySteps:
    """Each fragment every ``sync_every`` steps of its own count; the fragments spread evenly.

    ``delay`` None takes a result as soon as it is there, at the latest when the fragment is due again;
    a number takes it after exactly so many steps, 0 at once. A fragment that found no group is due again
    after ``retry`` steps, because its others may be there by then.
    """

    def __init__(
        self, sync_every: int, fragments: int = 1, delay: int | None = 0, retry: int | None = None
    ) -> None:
        if sync_every < 1:
            raise ConfigurationError(f"sync_every must be at least 1, not {sync_every}")
        if fragments < 1 or sync_every % fragments:
            raise ConfigurationError(
                f"sync_every ({sync_every}) must be divisible by the number of fragments ({fragments}), "
                f"which take turns"
            )
        most = sync_every // fragments
        if delay is not None and not 0 <= delay < most:
            raise ConfigurationError(
                f"fragment_sync_delay must be 0 to {most - 1} steps: less than there are between two "
                f"fragments ({sync_every} ÷ {fragments}), not {delay}"
            )
        self.sync_every = sync_every
        self.delay = delay
        self._retry = max(1, sync_every // 10) if retry is None else retry
        self._due = [most * (index + 1) for index in range(fragments)]
        self._begun: list[int | None] = [None] * fragments
        self.steps = 0
        """Inner steps so far."""

    def stepped(self) -> list[Take]:
        """An inner step was taken: which results to take now, before ``to_begin`` is asked."""
        self.steps += 1
        takes = []
        for index, due in enumerate(self._due):
            begun = self._begun[index]
            if begun is not None:
                if self.delay is None:
                    takes.append(Take(index, wait=self.steps >= due))
                elif self.steps >= begun + self.delay:
                    takes.append(Take(index, wait=True))
        return takes

    def to_begin(self) -> list[int]:
        """The fragments that are due now and not being averaged."""
        return [
            index for index, due in enumerate(self._due) if self.steps >= due and self._begun[index] is None
        ]

    def begun(self, fragment: int) -> Take | None:
        """Averaging started: with a delay of 0 its end is to be awaited at once."""
        self._begun[fragment] = self.steps
        self._due[fragment] = self.steps + self.sync_every
        return Take(fragment, wait=True) if self.delay == 0 else None

    def taken(self, fragment: int) -> None:
        """The average was applied."""
        self._begun[fragment] = None

    def failed(self, fragment: int) -> None:
        """There was no group: tries again soon."""
        self._begun[fragment] = None
        self._due[fragment] = self.steps + self._retry

    def state_dict(self) -> dict[str, object]:
        """Where the counts are, without what was begun: averages in flight are lost on a restart."""
        return {"steps": self.steps, "due": list(self._due)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """The inverse. Raises ValueError for another number of fragments."""
        due, steps = state["due"], state["steps"]
        if not isinstance(due, list) or not isinstance(steps, int) or len(due) != len(self._due):
            raise ValueError(f"this training has {len(self._due)} fragments, the saved one {due!r}")
        self._due, self.steps = [int(one) for one in due], steps
        self._begun = [None] * len(due)

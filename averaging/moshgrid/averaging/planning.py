"""Planning: which grid plan a peer follows, and when it is this peer's turn to publish one. Pure.

A plan is followed while it fits the peers that are known; among those that fit, a higher epoch wins,
then the lower hash. So peers that saw different plans, or none, follow one as soon as word got round.
A newcomer cannot know who was lost before it came: such peers count for it as the plan has them, and
while there are any it draws no plan of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from moshgrid.averaging.grid_plan import MAX_PLANNED, GridPlan, PlanRecord, publisher_order
from moshgrid.p2p.identity import PeerId

__all__ = ["ROUNDS_AHEAD", "PlanBook"]

ROUNDS_AHEAD = 2
"""A plan takes effect so many rounds after the one for which it was published."""
_MAX_PLANS = 8
_MAX_AHEAD = 16
_REPLAN = 0.025
"""A new plan is due when the last one is wrong about more than this share of its members."""


class PlanBook:
    """The plans that one peer knows of."""

    def __init__(self, me: PeerId, group_size: int) -> None:
        self._me = me
        self._group_size = group_size
        self._plans: list[GridPlan] = []
        self._lacking_since: int | None = None

    def wants(self, record: PlanRecord, round_number: int) -> bool:
        """True when the record's member list is worth reading.

        Not for what is known, nor for plans of a distant future: they would keep others from being made.
        """
        known = any(plan.record == record for plan in self._plans)
        return not known and record.first_round <= round_number + _MAX_AHEAD

    def learned(
        self, plan: GridPlan, peers: Sequence[PeerId], doubtful: frozenset[PeerId] = frozenset()
    ) -> None:
        """Takes note of a plan. Those that fit ``peers`` are kept first, then the higher epochs."""
        self._plans.append(plan)
        self._plans.sort(key=lambda plan: (not _fits(plan, peers, doubtful), plan.record.precedence))
        del self._plans[_MAX_PLANS:]

    def in_force(
        self, round_number: int, peers: Sequence[PeerId], doubtful: frozenset[PeerId] = frozenset()
    ) -> GridPlan | None:
        """The plan to follow in a round, or None. ``doubtful``: who of ``peers`` may be gone."""
        if len(peers) <= self._group_size:
            return None
        begun = [plan for plan in self._plans if plan.record.first_round <= round_number]
        return _best(begun, peers, doubtful)

    def to_publish(
        self, round_number: int, peers: Sequence[PeerId], doubtful: frozenset[PeerId] = frozenset()
    ) -> GridPlan | None:
        """The plan that this peer has to publish now, ``round_number`` being the coming round; or None.

        The lowest H(epoch ‖ peer id) is first; for each round without a plan one peer more may.
        """
        best = _best(self._plans, peers, doubtful)
        if not self._group_size < len(peers) <= MAX_PLANNED or not _is_due(best, round_number, peers):
            self._lacking_since = None
            return None
        if self._lacking_since is None:
            self._lacking_since = round_number
        if doubtful:
            return None
        first_round = round_number + ROUNDS_AHEAD
        epoch = 1 + max((plan.record.epoch for plan in self._plans), default=0)
        turns = 1 + round_number - self._lacking_since
        if epoch > first_round or self._me not in publisher_order(epoch, peers)[:turns]:
            return None
        plan = GridPlan.drawn(epoch, first_round, peers, self._group_size)
        if not plan.leaves_nobody_alone:
            return None
        self.learned(plan, peers)
        return plan


def _is_due(best: GridPlan | None, round_number: int, peers: Sequence[PeerId]) -> bool:
    """Every plan that fits at all is left in force until each axis had its turn."""
    if best is None:
        return True
    has_served = round_number >= best.record.first_round + len(best.record.dims)
    return has_served and best.difference(peers) > _REPLAN * len(best.members)


def _best(plans: Sequence[GridPlan], peers: Sequence[PeerId], doubtful: frozenset[PeerId]) -> GridPlan | None:
    fitting = [plan for plan in plans if _fits(plan, peers, doubtful)]
    return min(fitting, key=lambda plan: plan.record.precedence, default=None)


def _fits(plan: GridPlan, peers: Sequence[PeerId], doubtful: frozenset[PeerId]) -> bool:
    """Whether the plan is as good as right about ``peers``; of the doubtful ones it knows better."""
    return plan.fits([peer for peer in peers if peer not in doubtful or peer in plan.places])

"""DiLoCo: train alone for many steps, then average (Douillard et al. 2023; Streaming DiLoCo, 2025)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from moshgrid.averaging import Averager, RoundReport
from moshgrid.averaging.pending_step import Averaged
from moshgrid.compression import get_codec
from moshgrid.p2p import ConfigurationError
from moshgrid.swarm import log_lines
from moshgrid.swarm.fragments import fragments_of
from moshgrid.swarm.merge_rule import Catching, Merge, how_to_catch_up, how_to_merge
from moshgrid.swarm.outer_loop import OuterLoop, is_plain_average
from moshgrid.swarm.round_outcome import outcome_of
from moshgrid.swarm.run import Run
from moshgrid.swarm.shared_state import CommonState
from moshgrid.swarm.sync_trigger import EverySteps, Take
from moshgrid.swarm.wrapped_optimizer import WrappedOptimizer

__all__ = ["DiLoCo"]

_MOST_WEIGHT = 4
"""Who has trained alone for long counts at most for so many times ``sync_every`` steps."""

_log = logging.getLogger("moshgrid.swarm")


class DiLoCo(WrappedOptimizer):
    """Steps ``inner_optimizer`` and every ``sync_every`` steps averages with the swarm.

    ``opt = DiLoCo(run, inner_optimizer=torch.optim.AdamW(model.parameters(), 4e-4), sync_every=100)``,
    then ``opt.step()`` and ``opt.zero_grad()`` as with any optimizer.

    ``outer_optimizer``: an optimizer over the model's parameters that takes the average as its gradient;
    None is SGD with lr 0.7 and Nesterov momentum 0.9. ``model_fragments``: how many parts of the model take
    turns, or the modules that they are. ``overlap`` goes on training while a round is under way, and
    applies its outcome when it is there; ``fragment_sync_delay`` applies it that many steps after it
    began instead, waiting if need be (0: at once). ``fragment_update_alpha``, 0 to 1: how much of a
    member's own place is kept. ``compression`` is what travels: the difference to what the members share,
    as one of ``moshgrid.compression.codec_names()``; ``error_feedback`` sends later what that left out.
    ``backup_device`` holds what the members share; None is where the parameters are. ``averaging_timeout``:
    seconds for a round in all. ``batch_size_per_step``: samples behind a step, for the swarm's count.

    A round without a group changes nothing: the next one is tried soon, with what was learnt till then.
    """

    def __init__(
        self,
        run: Run,
        inner_optimizer: torch.optim.Optimizer,
        outer_optimizer: torch.optim.Optimizer | None = None,
        *,
        sync_every: int = 100,
        model_fragments: int | Sequence[torch.nn.Module] | None = None,
        fragment_sync_delay: int | None = None,
        fragment_update_alpha: float = 0.0,
        compression: str = "int8",
        error_feedback: bool = False,
        overlap: bool = True,
        backup_device: torch.device | str | None = None,
        averaging_timeout: float = 60.0,
        batch_size_per_step: int = 1,
    ) -> None:
        if not 0 <= fragment_update_alpha <= 1:
            raise ConfigurationError(f"fragment_update_alpha must be 0 to 1, not {fragment_update_alpha}")
        super().__init__(inner_optimizer)
        parts = fragments_of(run.named_parameters, model_fragments)
        delay = fragment_sync_delay if overlap or fragment_sync_delay is not None else 0
        self.trigger = EverySteps(sync_every, len(parts), delay, retry=1 if delay is None else None)
        everything = [p for part in parts for p in part.values()]
        self.outer = outer_optimizer or torch.optim.SGD(everything, lr=0.7, momentum=0.9, nesterov=True)
        codec = get_codec(compression) if error_feedback else None
        self.run = run
        self.no_group = 0
        """Rounds that came to nothing, and after which this peer trained on locally."""
        self.fragments = []
        for index, part in enumerate(parts):
            name = f"diloco{index}" if len(parts) > 1 else "diloco"
            loop = OuterLoop(
                part, self.outer, alpha=fragment_update_alpha, codec=codec, backup_device=backup_device
            )
            averager = run.averager_for(name, [p.data for p in part.values()], compression)
            if averager.round == 0:
                loop.applied = 0  # the run begins; that all begin alike is seen in the first round
            self.fragments.append(_Fragment(name if len(parts) > 1 else "", loop, averager))
        self._exact = is_plain_average(self.outer) and compression == "none"
        self._timeout = averaging_timeout
        self._batch_size = batch_size_per_step
        run.follow(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimizer, and what is due of averaging. Returns the closure's loss."""
        with torch.enable_grad():
            loss = self._inner().step(closure)
        self.run.tracker.counted(self._batch_size)
        for fragment in self.fragments:
            fragment.steps += 1
        for take in self.trigger.stepped():
            self._take(take)
        for index in self.trigger.to_begin():
            self._begin(index)
        return loss

    def synchronize(self) -> list[RoundReport]:
        """Averages all fragments now, and waits for it. For the end of a training, or before evaluating.

        A fragment whose last average holds every step is not averaged again.
        """
        reports = []
        for index, fragment in enumerate(self.fragments):
            if fragment.pending is not None:
                self._take(Take(index, wait=True))
            if fragment.steps:
                self._begin(index)
            if fragment.pending is not None:
                self._take(Take(index, wait=True))
            if fragment.report is not None:
                reports.append(fragment.report)
        return reports

    @property
    def epoch(self) -> int:
        """The last round whose result is in the model."""
        return min((fragment.loop.applied or 0 for fragment in self.fragments), default=0)

    # A round ----------------------------------------------------------------------------------------

    def _begin(self, index: int) -> None:
        fragment = self.fragments[index]
        loop, averager = fragment.loop, fragment.averager
        if len(averager.peers) < 2:
            self.no_group += 1
            self.trigger.failed(index)
            return
        if not all(bool(torch.isfinite(p).all()) for p in loop.parameters):
            self._recover_from_nan(fragment)
            self.trigger.failed(index)
            return
        self._catch_up(fragment)
        start = loop.start()
        weight = min(fragment.steps, _MOST_WEIGHT * self.trigger.sync_every)
        reference = None if self._exact else loop.anchors
        since = loop.applied if loop.applied is not None else averager.round
        fragment.pending = start, averager.average_soon(loop.outgoing(start), float(weight), reference, since)
        fragment.sent_steps = fragment.steps
        take = self.trigger.begun(index)
        if take is not None:
            self._take(take)

    def _take(self, take: Take) -> None:
        fragment = self.fragments[take.fragment]
        if fragment.pending is None or not (take.wait or fragment.pending[1].done()):
            return
        (start, future), fragment.pending = fragment.pending, None
        report, average = outcome_of(fragment.averager, future, self._timeout, self.run.shows_progress)
        fragment.report = report
        same_state = self._exact or bool(report.reference)
        one_group = len(fragment.averager.peers) <= self.run.group_size
        merge = how_to_merge(report.committed, same_state, one_group)
        counted = report.contributors.get(self.run.node.peer_id, 0.0) == 1.0
        fragment.loop.take(start, average, merge, counted)
        if merge is Merge.NOTHING:
            self.no_group += 1
            self.trigger.failed(take.fragment)
        else:
            if merge is Merge.UNITE:
                _log.info(log_lines.united(report.round))
            fragment.loop.applied = report.round
            fragment.steps -= fragment.sent_steps
            self.trigger.taken(take.fragment)
            self.run.tracker.entered(self.epoch)
        self.run.completed(report, fragment.name)

    def _catch_up(self, fragment: _Fragment) -> None:
        """The run may have gone on without this peer."""
        loop, averager = fragment.loop, fragment.averager
        how = how_to_catch_up(loop.applied, averager.round)
        if how is Catching.UP_TO_DATE or self._replay(fragment):
            return
        # The run may go on during the download of its whole state: those rounds are then replayed, too.
        if how is Catching.RELOAD and self.run.sync() is not None:
            self._replay(fragment)  # the state came with momentum, through ``adopt_state``
            return
        snapshot = self.run.newest_average(averager)
        if snapshot is None:
            return
        vectors = [array.reshape(-1) for array in snapshot.arrays]
        if loop.applied is not None and snapshot.round == loop.applied + 1:
            loop.replay(vectors)
            said = "the average of the round that was missed was replayed"
        else:
            loop.follow(vectors)
            said = "the swarm's last average was taken; outer momentum begins anew"
        loop.applied = snapshot.round
        fragment.steps = 1
        self.run.tracker.entered(self.epoch)
        _log.info(log_lines.caught_up(snapshot.round, said))

    def _replay(self, fragment: _Fragment) -> bool:
        """Applies the averages of the rounds that were missed, as far as peers keep them; True when all."""
        loop, averager = fragment.loop, fragment.averager
        if how_to_catch_up(loop.applied, averager.round) is Catching.UP_TO_DATE:
            return True
        if loop.applied is None:
            return False
        missed = averager.fetch_rounds(loop.applied)
        for number, arrays in missed:
            loop.replay([array.reshape(-1) for array in arrays])
            loop.applied = number
        if missed:
            self.run.tracker.entered(self.epoch)
            said = "the average of the round that was missed was replayed"
            if len(missed) > 1:
                said = f"the averages of the {len(missed)} rounds that were missed were replayed"
            _log.info(log_lines.caught_up(missed[-1][0], said))
        return how_to_catch_up(loop.applied, averager.round) is Catching.UP_TO_DATE

    def _recover_from_nan(self, fragment: _Fragment) -> None:
        _log.warning(log_lines.not_finite(fragment.loop.applied or 0))
        fragment.loop.revert()
        fragment.steps = 0
        for parameter in fragment.loop.parameters:
            self.state.pop(parameter, None)

    # State ------------------------------------------------------------------------------------------

    def export_state(self) -> CommonState:
        """See ``SharedState``."""
        tensors = {}
        for fragment in self.fragments:
            tensors.update(fragment.loop.shared_tensors())
        notes = {f"round{i}": str(f.loop.applied or 0) for i, f in enumerate(self.fragments)}
        return CommonState(self.epoch, tensors, notes)

    def adopt_state(self, epoch: int, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        """See ``SharedState``. Averages in flight are given up."""
        self._give_up()
        for index, fragment in enumerate(self.fragments):
            fragment.loop.load_shared(tensors)
            fragment.loop.applied = int(notes.get(f"round{index}", epoch))
            fragment.steps = 0
        self.run.tracker.entered(self.epoch)

    def own_state(self) -> dict[str, Any]:
        """The shared state, counts, and the outer optimizer's learning rates. Not: averages in flight."""
        return {
            "trigger": self.trigger.state_dict(),
            "fragments": [{"steps": f.steps, **f.loop.own_state()} for f in self.fragments],
            "outer": [
                {key: value for key, value in group.items() if key != "params"}
                for group in self.outer.param_groups
            ],
            "no_group": self.no_group,
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse. Raises ValueError for another number of fragments, SchemaMismatch."""
        self._give_up()
        self.trigger.load_state_dict(state["trigger"])
        for fragment, saved in zip(self.fragments, state["fragments"], strict=True):
            fragment.steps = saved["steps"]
            fragment.loop.load_own_state(saved)
        for group, saved in zip(self.outer.param_groups, state["outer"], strict=True):
            group.update(saved)
        self.no_group = state["no_group"]

    def _give_up(self) -> None:
        for index, fragment in enumerate(self.fragments):
            if fragment.pending is not None:
                fragment.pending[1].cancel()
                fragment.pending = None
                self.trigger.failed(index)


class _Fragment:
    """One part of the model: its shared state, its averager, and the round that is under way."""

    def __init__(self, name: str, loop: OuterLoop, averager: Averager) -> None:
        self.name = name
        self.loop = loop
        self.averager = averager
        self.steps = 0
        """Inner steps that no average holds yet."""
        self.sent_steps = 0
        self.pending: tuple[list[torch.Tensor], Future[Averaged]] | None = None
        self.report: RoundReport | None = None

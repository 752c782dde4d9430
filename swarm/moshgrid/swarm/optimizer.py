"""Optimizer: large batches accumulated by a whole swarm, with the words of hivemind's optimizer.

Members add up gradients until all of them together have seen ``target_batch_size`` samples (DeDLOC,
Diskin et al. 2021); then the gradients are averaged, each by its samples, and everybody takes one step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import torch

from moshgrid.averaging import Averager, RoundReport
from moshgrid.averaging.pending_step import Averaged
from moshgrid.averaging.tensors import add_difference, write_from
from moshgrid.p2p import ConfigurationError
from moshgrid.swarm import log_lines
from moshgrid.swarm.gradient_accumulator import GradientAccumulator
from moshgrid.swarm.round_outcome import no_round, outcome_of
from moshgrid.swarm.run import Run
from moshgrid.swarm.shared_state import CommonState
from moshgrid.swarm.state_tensors import load_tensors, schedule_of, tensors_of
from moshgrid.swarm.wrapped_optimizer import WrappedOptimizer

__all__ = ["Optimizer"]

_log = logging.getLogger("moshgrid.swarm")


class Optimizer(WrappedOptimizer):
    """Steps ``optimizer`` once per ``target_batch_size`` samples of the whole swarm: a virtual epoch.

    Call ``step`` and ``zero_grad`` after every batch of ``batch_size_per_step`` samples (or give
    ``step(batch_size=…)``). ``scheduler`` is stepped once per epoch. ``use_local_updates``: step on every
    batch instead, and average parameters once per epoch. ``delay_optimizer_step`` or
    ``delay_grad_averaging``: train on while gradients are averaged; the step is a little late.
    ``average_state_every``: epochs after which parameters are averaged too, which repairs small
    differences; 0 never. ``matchmaking_time`` (at most 15 s) bounds the search for a group when the run
    does not; ``averaging_timeout`` is for a round in all, in seconds.

    Without a group it steps on its own gradients, counts that in ``no_group``, and goes on. It never
    steps without gradients, or with NaN: then it takes part with weight 0, and steps with the others'.
    """

    def __init__(
        self,
        run: Run,
        optimizer: torch.optim.Optimizer,
        *,
        target_batch_size: int,
        batch_size_per_step: int | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        use_local_updates: bool = False,
        delay_optimizer_step: bool = False,
        delay_grad_averaging: bool = False,
        average_state_every: int = 1,
        grad_compression: str = "float16",
        state_averaging_compression: str = "none",
        matchmaking_time: float | None = None,
        averaging_timeout: float = 60.0,
    ) -> None:
        if target_batch_size < 1:
            raise ConfigurationError(f"target_batch_size must be at least 1, not {target_batch_size}")
        if use_local_updates and (delay_optimizer_step or delay_grad_averaging):
            raise ConfigurationError("use_local_updates has no delayed steps: every batch is stepped at once")
        super().__init__(optimizer)
        self.run = run
        self.target_batch_size = target_batch_size
        self.batch_size_per_step = batch_size_per_step
        self.scheduler = scheduler
        self.use_local_updates = use_local_updates
        self.delayed = delay_optimizer_step or delay_grad_averaging
        self.average_state_every = average_state_every
        self.epoch = run.tracker.own.epoch
        """Steps that the swarm has taken together."""
        self.no_group = 0
        """Epochs that ended without a group, on this peer's own gradients."""
        self._named = run.named_parameters
        self._parameters = list(self._named.values())
        self._gradients = GradientAccumulator(self._parameters)
        self._stepped = 0
        """The round of gradients whose step was taken last."""
        self._timeout = averaging_timeout
        self._pending: tuple[GradientAccumulator, Future[Averaged]] | None = None
        self._averagers: dict[str, Averager] = {}
        codecs = {"state": state_averaging_compression}
        if not use_local_updates:
            codecs["grad"] = grad_compression
        for part, codec in codecs.items():
            like = [p.data for p in self._parameters]
            self._averagers[part] = run.averager_for(part, like, codec, deadline=matchmaking_time)
        run.tracker.aim(target_batch_size)
        run.follow(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, batch_size: int | None = None) -> Any:
        """Counts a batch, and does what is due. Returns the closure's loss."""
        loss = None
        samples = batch_size if batch_size is not None else self.batch_size_per_step
        if samples is None:
            raise ConfigurationError("give batch_size_per_step to Optimizer, or batch_size to step()")
        if self.use_local_updates:
            with torch.enable_grad():
                loss = self._inner().step(closure)
        else:
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            self._gradients.add(samples)
        self.run.tracker.counted(samples)
        if self._pending is not None and self._pending[1].done():
            self._finish_gradients()
        view = self.run.tracker.view()
        if view.behind:
            self._catch_up(view.epoch)
        elif self._pending is None and self.run.tracker.due():
            self._synchronise()
        return loss

    # An epoch ---------------------------------------------------------------------------------------

    def _synchronise(self) -> None:
        _log.info(log_lines.own_part(self.run.tracker.own.samples, self.run.tracker.view()))
        if self.use_local_updates:
            if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
                self._recover_from_nan()
                return
            reports = self._average_parameters(float(self.run.tracker.own.samples))
            self.no_group += not any(report.committed for report, _ in reports)
            self._enter(self.epoch + 1)
            for report, part in reports:
                self.run.completed(report, part)
            return
        batch, self._gradients = self._gradients, GradientAccumulator(self._parameters)
        if not batch.is_finite():
            _log.warning(log_lines.gradients_not_finite())
            batch = GradientAccumulator(self._parameters)  # no samples: weight 0
        averager = self._averagers["grad"]
        if len(averager.peers) < 2:
            self.no_group += 1
            self._step_with(batch.mean(), batch.samples)
            self._enter(self.epoch + 1)
            return
        future = averager.average_soon(batch.mean(), float(batch.samples))
        self._pending = batch, future
        if self.delayed:
            self.run.tracker.entered(self.epoch)  # what comes now counts for the next epoch
        else:
            self._finish_gradients()

    def _finish_gradients(self) -> None:
        assert self._pending is not None
        (batch, future), self._pending = self._pending, None
        report, average = self._outcome(self._averagers["grad"], future)
        gradients = batch.mean()
        if report.committed and average is not None:
            self._stepped = report.round
            for gradient, vector in zip(gradients, average, strict=True):
                write_from(vector, gradient)
        else:
            self.no_group += 1
        self._step_with(gradients, batch.samples + (1 if report.committed else 0))
        reports = [(report, "gradients")]
        every = self.average_state_every
        if every and (self.epoch + 1) % every == 0:
            reports += self._average_parameters(1.0)
        self._enter(self.epoch + 1, carried_over=self._gradients.samples)
        for one, part in reports:
            self.run.completed(one, part)

    def _step_with(self, gradients: list[torch.Tensor], samples: int) -> None:
        """One step of the inner optimizer. Without samples, anybody's, there is none."""
        if not samples:
            return
        before = [p.grad for p in self._parameters]
        try:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient.to(parameter.device, parameter.dtype)
            self._inner().step()
        finally:
            for parameter, earlier in zip(self._parameters, before, strict=True):
                parameter.grad = earlier

    def _average_parameters(self, weight: float) -> list[tuple[RoundReport, str]]:
        averager = self._averagers["state"]
        if len(averager.peers) < 2:
            return []
        start = [p.detach().clone() for p in self._parameters]
        report, average = self._outcome(averager, averager.average_soon(start, weight))
        if report.committed and average is not None:
            for parameter, then, vector in zip(self._parameters, start, average, strict=True):
                add_difference(parameter.data, then, vector)
        return [(report, "parameters")]

    def _enter(self, epoch: int, carried_over: int = 0) -> None:
        self.epoch = epoch
        self.run.tracker.entered(epoch, carried_over)
        if self.scheduler is not None:
            self.scheduler.step()

    def _outcome(self, averager: Averager, future: Future[Averaged]) -> Averaged:
        try:
            return outcome_of(averager, future, self._timeout, self.run.shows_progress)
        except ConfigurationError as error:
            return no_round(averager, str(error))

    def _recover_from_nan(self) -> None:
        _log.warning(log_lines.not_finite(self.epoch))
        if self.run.sync() is None:
            self._enter(self.epoch + 1)  # nobody has a state

    def _catch_up(self, epoch: int) -> None:
        """The swarm is in a later epoch: takes its parameters, drops gradients of old ones."""
        if self._pending is not None:
            return  # that epoch may be the one whose gradients are under way
        self._gradients = GradientAccumulator(self._parameters)
        how = "the step that was missed was replayed"
        if epoch != self.epoch + 1 or not self._replay():
            if self.run.sync() is not None and self.epoch >= epoch:
                _log.info(log_lines.caught_up(self.epoch, "the swarm's state was taken"))
                return
            snapshot = self.run.newest_average(self._averagers["state"])
            how = "the swarm's parameters were taken" if snapshot else "no peer has its parameters yet"
            if snapshot is not None:
                for parameter, array in zip(self._parameters, snapshot.arrays, strict=True):
                    write_from(array.reshape(-1), parameter.data)
        self._enter(epoch)
        _log.info(log_lines.caught_up(epoch, how))

    def _replay(self) -> bool:
        """Takes the one step that the others took without this peer, along the gradient that they sealed."""
        averager = self._averagers.get("grad")
        if averager is None or averager.round != self._stepped + 1:
            return False
        snapshot = self.run.newest_average(averager)
        if snapshot is None or snapshot.round != self._stepped + 1:
            return False
        self._stepped = snapshot.round
        self._step_with([torch.from_numpy(array) for array in snapshot.arrays], 1)
        return True

    # State ------------------------------------------------------------------------------------------

    def export_state(self) -> CommonState:
        """See ``SharedState``: parameters, the inner optimizer's tensors, and learning rates."""
        notes = {
            "stepped": str(self._stepped),
            "lr": json.dumps([float(group["lr"]) for group in self.param_groups]),
        }
        if self.scheduler is not None:
            notes["schedule"] = json.dumps(schedule_of(self.scheduler), sort_keys=True)
        return CommonState(self.epoch, tensors_of(self._named, self._inner()), notes)

    def adopt_state(self, epoch: int, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        """See ``SharedState``."""
        self._give_up()
        load_tensors(self._named, self._inner(), tensors)
        self._stepped = int(notes.get("stepped", self._stepped))
        if self.scheduler is not None and "schedule" in notes:
            self.scheduler.load_state_dict(json.loads(notes["schedule"]))
            for group, rate in zip(self.param_groups, json.loads(notes["lr"]), strict=False):
                group["lr"] = float(rate)
        self.epoch = epoch
        self.run.tracker.entered(epoch)

    def own_state(self) -> dict[str, Any]:
        """The epoch, and gradients that were accumulated for the next."""
        return {
            "epoch": self.epoch,
            "no_group": self.no_group,
            "gradients": self._gradients.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self._give_up()
        self.epoch, self.no_group = state["epoch"], state["no_group"]
        self._gradients.load_state_dict(state["gradients"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.run.tracker.entered(self.epoch, self._gradients.samples)

    def _give_up(self) -> None:
        if self._pending is not None:
            self._pending[1].cancel()
            self._pending = None
        self._gradients = GradientAccumulator(self._parameters)

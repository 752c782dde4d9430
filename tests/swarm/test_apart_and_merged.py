"""Two swarms of one run that began apart: who knows both brings them together. In virtual time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.part_work import inline
from moshgrid.averaging.run_core import RunCore
from moshgrid.dht import DHTNode
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch
from moshgrid.swarm.progress_tracker import TrainingRecords
from moshgrid.swarm.run_identity import TensorEntry
from moshgrid.swarm.swarm_progress import SwarmProgress

ENTRIES = [TensorEntry("w", (8,), "float32")]


class _Member:
    def __init__(self, host: Any, core: RunCore, records: TrainingRecords, value: float) -> None:
        self.host, self.core, self.records = host, core, records
        self.array = np.full(8, value, np.float32)
        self.round = 0

    async def step(self) -> Any:
        report = await self.core.step([self.array], 1.0, 1)
        if report.committed:
            self.round = report.round
            self.records.progress.entered(report.round, trio.current_time())
            told = self.records.progress.to_publish(trio.current_time())
            if told is not None:
                await self.records.publish(told)
        return report


async def _live(
    switch: MemorySwitch, number: int, seed: int, known: list[_Member], value: float, *, task_status: Any
) -> None:
    identity = Identity.from_seed(bytes([number + 1, seed]) * 16)
    bootstrap = tuple(address for member in known for address in member.host.network.addrs)
    rng = random.Random(seed * 100 + number)
    network = switch.network(identity)
    async with open_host(network, identity, bootstrap=bootstrap, clock=VirtualClock(), rng=rng) as host:
        dht = await DHTNode.of(host)
        array = np.zeros(8, np.float32)
        config = run_config("r", [array], 8, 2, "none", "moshpit", "mean", None)
        core = RunCore(host, dht, config, inline)
        await core.start()
        records = TrainingRecords(host, dht, "r", SwarmProgress(), clock=trio.current_time)
        await records.join(ENTRIES)
        task_status.started(_Member(host, core, records, value))
        await trio.sleep_forever()


@pytest.mark.parametrize("seed", range(3))
def test_swarms_that_began_apart_go_on_together_from_the_higher_round(seed: int) -> None:
    async def scenario() -> None:
        async with MemorySwitch(seed=seed) as switch, trio.open_nursery() as nursery:

            async def add(number: int, known: list[_Member], value: float) -> _Member:
                member = await nursery.start(_live, switch, number, seed, known, value)
                assert isinstance(member, _Member)
                return member

            async def all_step(members: list[_Member]) -> list[Any]:
                reports: dict[int, Any] = {}

                async def one(index: int, member: _Member) -> None:
                    reports[index] = await member.step()

                async with trio.open_nursery() as steps:
                    for index, member in enumerate(members):
                        steps.start_soon(one, index, member)
                return [reports[index] for index in range(len(members))]

            left = [await add(0, [], 0.0)]
            left.append(await add(1, left, 2.0))
            right = [await add(2, [], 10.0)]
            right.append(await add(3, right, 14.0))
            for _ in range(6):
                await all_step(left)
            for _ in range(2):
                await all_step(right)
            ahead, behind = left[0].round, right[0].round
            assert ahead > behind >= 1
            assert [float(member.array[0]) for member in (*left, *right)] == [1.0, 1.0, 12.0, 12.0]
            everybody = [*left, *right, await add(4, [left[0], right[0]], 100.0)]
            with trio.fail_after(300):
                while True:
                    reports = await all_step(everybody)
                    if all(report.committed and len(report.group) == 5 for report in reports):
                        break
                    await trio.sleep(5)
            assert len({report.round for report in reports}) == 1
            assert reports[0].round > ahead
            assert len({member.array.tobytes() for member in everybody}) == 1
            with trio.fail_after(120):
                while any(m.records.progress.view(trio.current_time()).peers < 5 for m in everybody):  # noqa: ASYNC110
                    await trio.sleep(1)
            for member in everybody:
                view = member.records.progress.view(trio.current_time())
                assert (view.epoch, view.behind) == (reports[0].round, 0)
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))

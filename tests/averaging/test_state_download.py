"""The download's machine and what donors keep: transitions one by one, and random donors by the hundred."""

import random
from collections import Counter

import pytest

from moshgrid.averaging.state import Description, KeptState
from moshgrid.averaging.state_download import (
    CHUNKS_PER_DONOR,
    DONORS_AT_ONCE,
    Arrived,
    Ask,
    DonorFound,
    DonorLost,
    Download,
    Downloaded,
    GaveUp,
    WasBusy,
)
from moshgrid.averaging.state_keeping import StateKeeping, Uploads
from moshgrid.p2p.machine import DeadlinePassed


def asks(effects):
    return [(effect.donor, effect.part) for effect in effects if isinstance(effect, Ask)]


def test_several_donors_are_asked_for_different_chunks_at_once():
    machine = Download(range(100), ["a", "b", "c", "d", "e", "f"], 0.0)
    first = asks(machine.start(0.0))
    assert Counter(donor for donor, _ in first) == dict.fromkeys("abcd", CHUNKS_PER_DONOR)
    assert len({part for _, part in first}) == len(first) == DONORS_AT_ONCE * CHUNKS_PER_DONOR
    assert asks(machine.handle(Arrived(*first[0]), 0.1)) == [(first[0][0], 12)]


def test_what_a_lost_donor_owed_is_asked_of_others():
    machine = Download(range(8), ["a", "b"], 0.0)
    first = asks(machine.start(0.0))
    machine.handle(DonorLost("a"), 0.1)
    pending = [part for donor, part in first if donor == "b"]
    got = []
    while not machine.over:
        got.append(pending.pop(0))
        pending += [part for _, part in asks(machine.handle(Arrived("b", got[-1]), 0.2))]
    assert sorted(got) == list(range(8))


def test_a_busy_donor_makes_place_for_another_and_is_asked_again_later():
    machine = Download(range(50), list("abcde"), 0.0)
    first = asks(machine.start(0.0))
    effects = asks(machine.handle(WasBusy("a", 2.0), 0.0))
    assert {donor for donor, _ in effects} == {"e"}
    assert {part for _, part in effects} == {part for donor, part in first if donor == "a"}
    assert machine.deadline == 2.0
    for donor in "bcd":
        machine.handle(DonorLost(donor), 1.0)
    assert {donor for donor, _ in asks(machine.handle(DeadlinePassed(), 2.0))} == {"a"}


def test_it_gives_up_when_nobody_is_left_or_nobody_sends():
    machine = Download(range(5), ["a"], 0.0)
    machine.start(0.0)
    assert machine.handle(DonorLost("a"), 0.0) == [GaveUp("nobody is left who has it")]
    assert machine.deadline is None and machine.handle(Arrived("a", 0), 0.0) == []
    machine = Download(range(5), ["a"], 0.0)
    machine.start(0.0)
    (effect,) = machine.handle(DeadlinePassed(), machine.deadline)
    assert isinstance(effect, GaveUp)
    assert isinstance(Download(range(5), [], 0.0).start(0.0)[0], GaveUp)
    assert Download([], [], 0.0).start(0.0) == [Downloaded()]


def test_an_idle_donor_helps_with_what_another_is_slow_to_send():
    machine = Download(range(2), ["slow", "fast"], 0.0)
    first = dict(asks(machine.start(0.0)))
    assert asks(machine.handle(Arrived("fast", first["fast"]), 0.1)) == []
    due = machine.deadline
    assert 0.5 < due < 3.0
    (helped,) = asks(machine.handle(DeadlinePassed(), due))
    assert helped == ("fast", first["slow"])
    assert machine.deadline > due
    assert machine.handle(Arrived(*helped), due + 0.1) == [Downloaded()]


@pytest.mark.parametrize("seed", range(200))
def test_every_chunk_comes_while_one_donor_holds_out(seed):
    rng = random.Random(seed)
    donors = [f"d{i}" for i in range(rng.randint(1, 9))]
    steady = rng.choice(donors)
    wanted = list(range(rng.randint(1, 60)))
    machine = Download(rng.sample(wanted, len(wanted)), donors, 0.0)
    now, pending, got, lost = 0.0, [], set(), set()

    def take(effects):
        for effect in effects:
            if isinstance(effect, Ask):
                assert effect.donor not in lost
                pending.append((effect.donor, effect.part))
                busiest = Counter(donor for donor, _ in pending).most_common(1)[0][1]
                assert busiest <= 5 * CHUNKS_PER_DONOR  # those that it was busy for are still answered
            elif isinstance(effect, GaveUp):
                raise AssertionError(effect)

    take(machine.start(now))
    for _ in range(20_000):
        if machine.over:
            break
        now += rng.random() / 10
        if machine.deadline is not None and now >= machine.deadline:
            take(machine.handle(DeadlinePassed(), now))
        elif pending:
            donor, part = pending.pop(rng.randrange(len(pending)))
            what = rng.random()
            if donor in lost:
                continue
            if donor != steady and what < 0.05:
                lost.add(donor)
                take(machine.handle(DonorLost(donor), now))
            elif what < 0.2:
                take(machine.handle(WasBusy(donor, rng.random()), now))
            else:
                got.add(part)
                take(machine.handle(Arrived(donor, part), now))
        if rng.random() < 0.01:
            donors.append(f"d{len(donors)}")
            take(machine.handle(DonorFound(donors[-1]), now))
    assert machine.over and got == set(wanted)


# What donors keep -----------------------------------------------------------------------------------


def kept(number):
    return KeptState(Description(number, digests=(bytes([number]) * 32,)), ((1, b""),))


def test_a_state_that_is_downloaded_is_kept_though_the_run_goes_on():
    keeping = StateKeeping()
    keeping.sealed(kept(1), 0.0)
    keeping.lease(kept(1), 0.0)
    for number in range(2, 12):
        keeping.sealed(kept(number), float(number), followed=True)
        if number == 5:
            keeping.lease(kept(1), 5.0)
    assert keeping.find(kept(1).description.id, 34.0) == kept(1)
    assert keeping.find(kept(1).description.id, 36.0) is None
    assert [each.round for each in keeping.rounds_after(9)] == [10, 11]
    assert len(keeping.rounds_after(0)) == 4
    keeping.sealed(kept(12), 40.0)
    assert [each.round for each in keeping.rounds_after(0)] == [12]


def test_so_many_states_are_kept_and_no_more():
    keeping = StateKeeping()
    for number in range(1, 9):
        keeping.lease(kept(number), 0.0)
    assert [n for n in range(1, 9) if keeping.find(kept(n).description.id, 1.0)] == [7, 8]


def test_a_donor_serves_a_few_and_tells_the_others_when_to_come_back():
    uploads = Uploads(2, idle_seconds=3.0)
    assert uploads.admit("a", 0.0) == uploads.admit("b", 1.0) == 0.0
    assert uploads.admit("c", 1.0) == 2.0
    assert uploads.admit("a", 2.0) == 0.0
    assert uploads.admit("c", 4.5) == 0.0  # b asks for nothing any more
    assert uploads.admit("b", 4.6) > 0.0
    uploads.done("a")
    assert uploads.admit("b", 4.7) == 0.0

"""Members as real processes that are killed and come back, sleep and wake, or are told to leave.

The short tests share one swarm of three, and leave three: starting processes is what takes the time here.
"""

import signal
import sys
import time
from collections.abc import Iterator

import pytest
from members import Member, Members, is_round

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with Members(tmp_path_factory.mktemp("members")) as members:
        for _ in range(3):
            members.start()
        yield members


def three(swarm: Members) -> list[Member]:
    """The live members, once a round had all of them."""
    members = swarm.live()
    assert len(members) == 3
    for member in members:
        member.listen()
        member.until(is_round(3), 90)
    return members


def peer_of(member: Member) -> str:
    (peer,) = {each["peer"] for each in member.said if each["event"] == "ready"}
    return str(peer)


def without(peer: str):
    return lambda each: is_round()(each) and peer not in each["group"]


def test_killed_and_started_again_with_the_same_identity(swarm, record_property):
    first, second, victim = three(swarm)
    peer = peer_of(victim)
    victim.kill()
    first.until(without(peer))
    again = swarm.start("again", victim.identity)
    ready = again.until(lambda each: each["event"] == "ready")
    assert ready["peer"] == peer
    synced = again.until(lambda each: each["event"] == "synced")
    assert synced["round"] >= victim.rounds[-1]["round"]
    back = again.until(is_round(3))
    record_property("seconds_until_back", round(back["t"] - ready["t"], 2))
    print(f"back in a group {back['t'] - ready['t']:.2f} s after start-up")
    # It takes part in rounds that follow, and nobody holds the old incarnation against it.
    assert back["round"] > victim.rounds[-1]["round"]
    for member in (first, second, again):
        member.until(lambda each: is_round(3)(each) and each["round"] > back["round"])


def sleep_and_wake(swarm, seconds):
    first, second, sleeper = three(swarm)
    peer = peer_of(sleeper)
    said_before = {member: len(member.said) for member in (first, second, sleeper)}
    sleeper.freeze()
    alone = first.until(without(peer), 60)
    until = alone["t"] + seconds
    while time.time() < until:
        first.until(is_round())
    sleeper.wake()
    woken = time.time()
    sleeper.listen(0.0)
    back = sleeper.until(lambda each: is_round(3)(each) and each["t"] > woken, 90)
    print(f"back in a group {back['t'] - woken:.2f} s after waking")
    # What it says of each round is what the others say of it: nothing stale was taken by anybody.
    first.until(lambda each: each["event"] == "round" and each["round"] >= back["round"] + 1)
    second.until(lambda each: each["event"] == "round" and each["round"] >= back["round"] + 1)
    digests = {}
    for member, already in said_before.items():
        for each in member.said[already:]:
            if is_round()(each):
                digests.setdefault(each["round"], set()).add(each["values"])
    assert all(len(values) == 1 for values in digests.values()), digests
    assert {alone["round"], back["round"]} <= set(digests)


def test_a_sleeping_member_drops_its_round_and_comes_back(swarm):
    sleep_and_wake(swarm, 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_sleep(swarm):
    sleep_and_wake(swarm, 60)


def test_told_to_leave_it_takes_its_records_back_and_nobody_waits(swarm):
    first, second, leaver = three(swarm)
    peer = peer_of(leaver)
    began = time.monotonic()
    leaver.process.send_signal(signal.SIGTERM)
    assert leaver.process.wait(20) == 0
    seconds = time.monotonic() - began
    round_without = first.until(without(peer), 20)
    print(f"left in {seconds:.2f} s; the round without it took {round_without['seconds']:.2f} s")
    second.until(without(peer), 20)
    assert "Traceback" not in (swarm.folder / f"{leaver.name}.err").read_text()
    swarm.start()

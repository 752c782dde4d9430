"""Members as real processes that are killed and come back, sleep and wake, or are told to leave."""

import signal
import sys
import time

import pytest
from members import Members, is_round

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.timeout(180),
]


def together(members, count):
    """Starts members and waits until a round had all of them."""
    started = [members.start() for _ in range(count)]
    for member in started:
        member.until(is_round(count), 90)
    return started


def test_killed_and_started_again_with_the_same_identity(tmp_path, record_property):
    with Members(tmp_path) as members:
        first, second, victim = together(members, 3)
        (peer,) = {each["peer"] for each in victim.said if each["event"] == "ready"}
        victim.kill()
        first.until(lambda each: is_round()(each) and peer not in each["group"])
        again = members.start("again", victim.identity)
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


def sleep_and_wake(tmp_path, seconds):
    with Members(tmp_path) as members:
        first, second, sleeper = together(members, 3)
        (peer,) = {each["peer"] for each in sleeper.said if each["event"] == "ready"}
        sleeper.freeze()
        alone = first.until(lambda each: is_round()(each) and peer not in each["group"], 60)
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
        for member in (first, second, sleeper):
            for each in member.rounds:
                digests.setdefault(each["round"], set()).add(each["values"])
        assert all(len(values) == 1 for values in digests.values()), digests
        assert len(digests) >= back["round"] - 2


def test_a_sleeping_member_drops_its_round_and_comes_back(tmp_path):
    sleep_and_wake(tmp_path, 8)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_sleep(tmp_path):
    sleep_and_wake(tmp_path, 60)


def test_told_to_leave_it_takes_its_records_back_and_nobody_waits(tmp_path):
    with Members(tmp_path) as members:
        first, second, leaver = together(members, 3)
        (peer,) = {each["peer"] for each in leaver.said if each["event"] == "ready"}
        began = time.monotonic()
        leaver.process.send_signal(signal.SIGTERM)
        assert leaver.process.wait(20) == 0
        seconds = time.monotonic() - began
        without = first.until(lambda each: is_round()(each) and peer not in each["group"], 20)
        print(f"left in {seconds:.2f} s; the round without it took {without['seconds']:.2f} s")
        second.until(lambda each: is_round()(each) and peer not in each["group"], 20)
        assert "Traceback" not in (tmp_path / "m2.err").read_text()

"""Churn: members as real processes are killed, frozen and added at random; and what is measured."""

import random
import time
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

_FIRST = 4
_LEAST_AWAKE = 3
_PAUSE = (1.0, 4.0)
_FROZEN_SECONDS = (2.0, 12.0)


@dataclass
class Churn:
    """What happened: actions by kind, and the committed rounds of all members by time."""

    actions: dict[str, int] = field(default_factory=dict)
    rounds: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    resident: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, bytes) of the first member, which lives from the beginning to the end."""
    finals: dict[str, list[dict]] = field(default_factory=dict)
    """The rounds without training at the end, by member."""

    @property
    def longest_gap(self):
        """Seconds without a finished round anywhere, from the first finished round on."""
        times = sorted(each["t"] for each in self.rounds)
        return max(later - earlier for earlier, later in pairwise(times))

    @property
    def memory_slope(self):
        """Bytes per minute, by a line through the second half."""
        half = [each for each in self.resident if each[0] > self.resident[-1][0] / 2]
        seconds, held = np.array(half).T
        return 60 * np.polyfit(seconds, held, 1)[0]

    def losses(self, windows):
        """The mean loss in each of so many windows of equally many rounds, in the order of the rounds."""
        ordered = sorted(self.rounds, key=lambda each: each["round"])
        return [float(np.mean(part)) for part in np.array_split([e["loss"] for e in ordered], windows)]

    def agreed(self):
        """The rounds at the end that all live members hold, with the one value they have of each."""
        common = set.intersection(*({each["round"] for each in said} for said in self.finals.values()))
        held = {
            number: {e["values"] for said in self.finals.values() for e in said if e["round"] == number}
            for number in common
        }
        return [number for number, values in held.items() if len(values) == 1]

    def figures(self, windows):
        """For people; the losses are the means of so many windows."""
        return {
            "seconds": round(self.seconds),
            **self.actions,
            "rounds": len({each["round"] for each in self.rounds}),
            "longest_gap_seconds": round(self.longest_gap, 2),
            "resident_MiB": [round(held / 2**20, 1) for _, held in (self.resident[0], self.resident[-1])],
            "memory_slope_MiB_per_minute": round(self.memory_slope / 2**20, 3),
            "losses": [round(loss, 3) for loss in self.losses(windows)],
            "live_at_the_end": len(self.finals),
            "agreed_final_rounds": len(self.agreed()),
        }


def churn(members, seconds, seed, most):
    """Runs it for so long, then lets all that live finish. ``members``: an entered ``Members``.

    At most ``most`` members at a time. The first three things to happen are one of each kind.
    """
    rng = random.Random(seed)
    result = Churn()
    first = members.start()
    for _ in range(_FIRST - 1):
        members.start()
    first.until(lambda each: each["event"] == "round" and len(each["group"]) >= _FIRST, 240)
    began = time.time()
    wake_at = {}
    dead = []
    first_of_all = ["add", "freeze", "kill"]

    def did(what):
        result.actions[what] = result.actions.get(what, 0) + 1

    def awake():
        return [member for member in members.live() if not member.frozen]

    def wake_due(now):
        for member in [member for member, at in wake_at.items() if at <= now]:
            del wake_at[member]
            member.wake()

    next_at = began
    while time.time() < began + seconds:
        first.listen(0.2)
        wake_due(time.time())
        if time.time() < next_at:
            continue
        next_at = time.time() + rng.uniform(*_PAUSE)
        others = [member for member in awake() if member is not first]
        what = rng.choice(["kill", "freeze", "add", "add", "return"])
        if first_of_all:
            what = first_of_all[0]
        if what in ("kill", "freeze") and len(awake()) > _LEAST_AWAKE:
            victim = rng.choice(others)
            if what == "kill":
                victim.kill()
                dead.append(victim)
            else:
                victim.freeze()
                wake_at[victim] = time.time() + rng.uniform(*_FROZEN_SECONDS)
            did({"kill": "killed", "freeze": "frozen"}[what])
            first_of_all = [each for each in first_of_all if each != what]
        elif what == "return" and dead and len(members.live()) < most:
            members.start(f"m{len(members.all)}-again", dead.pop(rng.randrange(len(dead))).identity)
            did("returned")
        elif what == "add" and len(members.live()) < most:
            members.start()
            did("added")
            first_of_all = [each for each in first_of_all if each != what]
    wake_due(float("inf"))
    live = members.live()
    result.seconds = time.time() - began
    for member in live:
        member.until(lambda each: each["event"] == "round", 120)
    for member in live:
        member.order("finish")
    # All of them, over the same rounds, several times.
    for _ in range(3):
        for member in live:
            member.until(
                lambda each: (
                    each["event"] == "round" and each["finishing"] and len(each["group"]) == len(live)
                ),
                240,
            )
    for member in live:
        member.order("end")
    for member in live:
        try:
            member.until(lambda each: each["event"] == "left", 60)
        except AssertionError:
            assert any(each["event"] in ("left", "ended") for each in member.said), member.said[-2:]
    for member in members.all:
        member.listen()
        result.rounds += [each for each in member.rounds if each["t"] >= began and not each["finishing"]]
    result.finals = {member.name: [e for e in member.rounds if e["finishing"]] for member in live}
    result.resident = [
        (e["t"] - began, e["resident"]) for e in first.said if e["event"] == "round" and e["t"] >= began
    ]
    return result

"""Faults in the middle of a round over real processes: who returns, when, and what it holds.

usage: python benchmarks/faults.py [--peers 8] [--megabytes 64] [--faults kill,stop,cut,slow]
           [--rounds 5] [--hivemind-python PATH] [--json]

kill: SIGKILL to two peers halfway through a round. stop: SIGSTOP to two, SIGCONT when the others are done.
cut: the link between two peers is severed. slow: one peer at a twentieth of the rate for ``--rounds`` rounds.
Each peer's values reveal, element by element, whose mean it holds afterwards. With ``--hivemind-python``
(an interpreter that has hivemind) hivemind's averager goes through the same. Linux only.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from pathlib import Path

from peer_process import PeerProcess, end_workers_when_terminated

FAULTS = ("kill", "stop", "cut", "slow")
PATIENCE = 60.0
SLOWER = 20
OWN_RATE = 3.0
"""So many times as long as its bytes take at its rate is a slow peer waited for."""
MENDING = 4
"""Rounds after a fault in which one is to be whole again."""
WORKER = Path(__file__).with_name("fault_worker.py")


def main() -> None:
    parser = argparse.ArgumentParser(description="faults in the middle of a round")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds with one slow peer")
    parser.add_argument("--hivemind-python", metavar="PATH")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    end_workers_when_terminated()
    systems = {"moshgrid": sys.executable}
    if arguments.hivemind_python:
        systems["hivemind"] = arguments.hivemind_python
    rows = []
    for system, python in systems.items():
        for fault in arguments.faults.split(","):
            rows += [measure(system, python, fault, arguments)]
            if not arguments.json:
                print(in_words(rows[-1]), flush=True)
    if arguments.json:
        result = {"benchmark": "faults", "peers": arguments.peers, "megabytes": arguments.megabytes}
        print(json.dumps({**result, "rows": rows}, indent=2))


def measure(system, python, fault, arguments):
    """One fault for one system: two rounds without, then the fault, then a round without again."""
    from link_relay import Relay

    peers = []
    relay = (
        Relay(arguments.peers, lambda: [peer.pids() for peer in peers]) if fault in ("cut", "slow") else None
    )
    try:
        for rank in range(arguments.peers):
            where = "" if rank == 0 else peers[0].address
            ports = (relay.targets[rank], relay.ports[rank]) if relay else (0, 0)
            command = [python, str(WORKER), system, str(rank), str(arguments.peers)]
            command += [str(arguments.megabytes), where or "-", *map(str, ports)]
            peers.append(PeerProcess(command, rank))
            if rank == 0:
                peers[0].address = peers[0].expect()["address"]
        for peer in peers[1:]:
            peer.expect()
        calm = [run_round(peers)[0] for _ in range(3)][1:]
        undisturbed = statistics.median(calm)
        row = {
            "system": system,
            "fault": fault,
            "peers": arguments.peers,
            "megabytes": arguments.megabytes,
            "undisturbed_seconds": round(undisturbed, 3),
            "allowed_seconds": round(2 * undisturbed + 1.5, 3),
        }
        return row | {"kill": kill, "stop": stop, "cut": cut, "slow": slow}[fault](
            peers, relay, undisturbed, arguments
        )
    finally:
        for peer in peers:
            peer.end()
        if relay is not None:
            relay.close()


def kill(peers, relay, undisturbed, arguments):
    """Two peers are gone for good."""
    victims, survivors = peers[1:3], peers[:1] + peers[3:]
    seconds, told = run_round(peers, survivors, undisturbed / 2, lambda: [v.signal(9) for v in victims])
    _, again = run_round(survivors)
    return outcome(survivors, told, seconds) | afterwards(survivors, again)


def stop(peers, relay, undisturbed, arguments):
    """Two peers stand still until the others are done.

    One that wakes up either drops its round and looks for the next by itself, or had given all it had to give
    before it stood still, learns what was sealed, holds the same bytes as the others, and steps again.
    """
    victims, survivors = peers[1:3], peers[:1] + peers[3:]
    freeze = lambda: [v.signal(signal.SIGSTOP) for v in victims]  # noqa: E731
    seconds, told = run_round(peers, survivors, undisturbed / 2, freeze)
    for victim in victims:
        victim.signal(signal.SIGCONT)
    woken = time.monotonic()
    time.sleep(1.0)  # as if they trained
    late = {victim: victim.hear(0.0) for victim in victims}
    for peer in survivors + [victim for victim in victims if late[victim]]:
        peer.go(PATIENCE)
    deadline = woken + PATIENCE
    sealed = {told[peer]["digest"] for peer in survivors if told[peer]}
    again = {}
    for peer in victims + survivors:
        again[peer] = peer.hear(deadline - time.monotonic())
        if not late.get(peer) and again[peer] and again[peer]["digest"] in sealed:
            late[peer] = again[peer]
            peer.go(PATIENCE)
            again[peer] = peer.hear(deadline - time.monotonic())
    row = outcome(survivors, told, seconds) | afterwards(peers, again)
    applied_late = [said["digest"] for said in late.values() if said and said["success"]]
    row["woken_learned_the_seal"] = len(applied_late)
    row["woken_hold_something_else"] = sum(digest not in sealed for digest in applied_late)
    return row


def cut(peers, relay, undisturbed, arguments):
    """Two peers do not hear each other any more; all others do."""
    one, other = peers[1], peers[2]
    severed = []
    sever = lambda: severed.append(relay.sever(one.rank, other.rank))  # noqa: E731
    seconds, told = run_round(peers, peers, undisturbed / 2, sever)
    relay.mend()
    _, again = run_round(peers)
    return outcome(peers, told, seconds) | afterwards(peers, again) | {"connections_severed": severed[0]}


def slow(peers, relay, undisturbed, arguments):
    """One peer at a twentieth of the rate that all had, from here on."""
    moved = 2 * (arguments.peers - 1) / arguments.peers * arguments.megabytes * 1e6
    relay.slow(peers[1].rank, moved / undisturbed / SLOWER)
    took_part, seconds, told = 0, [], {}
    patience = max(PATIENCE, OWN_RATE * SLOWER * undisturbed)
    for _ in range(arguments.rounds):
        spent, told = run_round(peers, patience=patience)
        seconds.append(spent)
        took_part += any(entry and entry["whole"] == arguments.peers for entry in told.values())
    return outcome(peers, told, statistics.median(seconds)) | {
        "rounds": arguments.rounds,
        "rounds_with_the_slow_peer": took_part,
    }


def run_round(peers, awaited=None, after=0.0, disturb=lambda: None, patience=PATIENCE):
    """All step at once; ``disturb`` comes ``after`` seconds. Seconds until the last awaited one returned."""
    began = time.monotonic()
    for peer in peers:
        peer.go(patience)
    time.sleep(after)
    disturb()
    told = {peer: peer.hear(began + patience - time.monotonic()) for peer in awaited or peers}
    at = [entry["at"] for entry in told.values() if entry]
    return (max(at) - began if at else patience), told


def outcome(survivors, told, seconds):
    """What the peers that nothing happened to hold afterwards."""
    returned = [told[peer] for peer in survivors if told[peer]]
    return {
        "survivors": len(survivors),
        "returned": len(returned),
        "say_success": sum(entry["success"] for entry in returned),
        "different_results": len({entry["digest"] for entry in returned}),
        "least_averaged": min((entry["averaged"] for entry in returned), default=0.0),
        "fewest_in_an_average": min((entry["fewest"] for entry in returned), default=0),
        "seconds": round(seconds, 3),
        "said": returned[0]["said"] if returned else "",
    }


def afterwards(peers, told):
    """How the round after the fault went, and how many it took until one was whole (0: none was)."""
    returned = [told[peer] for peer in peers if told[peer]]
    row = {
        "next_round_peers": len(peers),
        "next_round_whole": whole(peers, told),
        "next_round_said": returned[-1]["said"] if returned else "",
        "rounds_until_whole": 0,
    }
    for number in range(1, MENDING + 1):
        if number > 1:
            if not all(told[peer] for peer in peers):
                break
            _, told = run_round(peers)
        if whole(peers, told) == len(peers):
            row["rounds_until_whole"] = number
            break
    return row


def whole(peers, told):
    """How many hold the mean of all ``peers``."""
    return sum(bool(told[peer]) and told[peer]["whole"] == len(peers) for peer in peers)


def in_words(row):
    text = (
        f"{row['system']:9} {row['fault']:5} {row['returned']} of {row['survivors']} returned, "
        f"{row['say_success']} say success, {row['different_results']} different results, "
        f"{row['least_averaged']:.0%} averaged, {row['seconds']:.1f} s (undisturbed "
        f"{row['undisturbed_seconds']:.1f} s)"
    )
    if "rounds" in row:
        return f"{text}; the slow peer was in {row['rounds_with_the_slow_peer']} of {row['rounds']} rounds"
    return (
        f"{text}; next round whole for {row['next_round_whole']} of {row['next_round_peers']}, "
        f"rounds until one was: {row['rounds_until_whole'] or 'none of ' + str(MENDING)}"
    )


if __name__ == "__main__":
    main()

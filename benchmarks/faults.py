"""Faults in the middle of a round over real processes: who returns, when, and what it holds.

usage: python benchmarks/faults.py [--peers 8] [--megabytes 64] [--faults kill,stop,cut,slow]
           [--rounds 5] [--hivemind-python PATH] [--json]

kill: SIGKILL to two peers halfway through a round. stop: SIGSTOP to two, SIGCONT when the others are done.
cut: the link between two peers is severed. slow: one peer at a twentieth of the rate for ``--rounds`` rounds.
Each peer's values reveal, element by element, whose mean it holds afterwards. With ``--hivemind-python``
(an interpreter that has hivemind) hivemind's averager goes through the same. Linux only.
"""

import argparse
import hashlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path

FAULTS = ("kill", "stop", "cut", "slow")
PATIENCE = 60.0
SLOWER = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="faults in the middle of a round")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds with one slow peer")
    parser.add_argument("--hivemind-python", metavar="PATH")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        system, rank, peers, where, listen, announce = arguments.worker
        elements = round(arguments.megabytes * 1e6 / 4)
        worker = {"moshgrid": moshgrid_worker, "hivemind": hivemind_worker}[system]
        worker(int(rank), int(peers), where, elements, int(listen), int(announce))
        return
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


# The parent -----------------------------------------------------------------------------------------


class Peer:
    """A worker process and what it says."""

    def __init__(self, python, system, rank, peers, megabytes, where, listen=0, announce=0):
        command = [python, __file__, "--megabytes", str(megabytes), "--worker", system]
        command += [str(rank), str(peers), where, str(listen), str(announce)]
        self.rank = rank
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.said = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.popen.stdout:
            if line.startswith("{"):
                self.said.put(json.loads(line))

    def hear(self, timeout):
        """The next thing it says, or None."""
        try:
            return self.said.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def go(self):
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def signal(self, number):
        os.killpg(self.popen.pid, number)

    def end(self):
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                self.signal(number)
            except ProcessLookupError:
                break
        self.popen.wait()

    def pids(self):
        """Its processes: everybody in its session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self.popen.pid:
                found.append(int(stat.parent.name))
        return found


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
            peers.append(Peer(python, system, rank, arguments.peers, arguments.megabytes, where, *ports))
            if rank == 0:
                peers[0].address = expect(peers[0])["address"]
        for peer in peers[1:]:
            expect(peer)
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
    return outcome(survivors, told, seconds) | next_round(survivors, again)


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
        peer.go()
    deadline = woken + PATIENCE
    sealed = {told[peer]["digest"] for peer in survivors if told[peer]}
    again = {}
    for peer in victims + survivors:
        again[peer] = peer.hear(deadline - time.monotonic())
        if not late.get(peer) and again[peer] and again[peer]["digest"] in sealed:
            late[peer] = again[peer]
            peer.go()
            again[peer] = peer.hear(deadline - time.monotonic())
    row = outcome(survivors, told, seconds) | next_round(peers, again)
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
    return outcome(peers, told, seconds) | next_round(peers, again) | {"connections_severed": severed[0]}


def slow(peers, relay, undisturbed, arguments):
    """One peer at a twentieth of the rate that all had, from here on."""
    moved = 2 * (arguments.peers - 1) / arguments.peers * arguments.megabytes * 1e6
    relay.slow(peers[1].rank, moved / undisturbed / SLOWER)
    took_part, seconds, told = 0, [], {}
    for _ in range(arguments.rounds):
        spent, told = run_round(peers)
        seconds.append(spent)
        took_part += any(entry and entry["whole"] == arguments.peers for entry in told.values())
    return outcome(peers, told, statistics.median(seconds)) | {
        "rounds": arguments.rounds,
        "rounds_with_the_slow_peer": took_part,
    }


def run_round(peers, awaited=None, after=0.0, disturb=lambda: None):
    """All step at once; ``disturb`` comes ``after`` seconds. Seconds until the last awaited one returned."""
    began = time.monotonic()
    for peer in peers:
        peer.go()
    time.sleep(after)
    disturb()
    told = {peer: peer.hear(began + PATIENCE - time.monotonic()) for peer in awaited or peers}
    at = [entry["at"] for entry in told.values() if entry]
    return (max(at) - began if at else PATIENCE), told


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


def next_round(peers, told):
    """How the round after the fault went."""
    returned = [told[peer] for peer in peers if told[peer]]
    return {
        "next_round_peers": len(peers),
        "next_round_whole": sum(entry["whole"] == len(peers) for entry in returned),
        "next_round_said": returned[-1]["said"] if returned else "",
    }


def expect(peer):
    said = peer.hear(60.0)
    if said is None:
        raise SystemExit(f"peer {peer.rank} did not start")
    return said


def in_words(row):
    text = (
        f"{row['system']:9} {row['fault']:5} {row['returned']} of {row['survivors']} returned, "
        f"{row['say_success']} say success, {row['different_results']} different results, "
        f"{row['least_averaged']:.0%} averaged, {row['seconds']:.1f} s (undisturbed "
        f"{row['undisturbed_seconds']:.1f} s)"
    )
    if "rounds" in row:
        return f"{text}; the slow peer was in {row['rounds_with_the_slow_peer']} of {row['rounds']} rounds"
    return f"{text}; next round whole for {row['next_round_whole']} of {row['next_round_peers']}"


# The workers ----------------------------------------------------------------------------------------


def base(rank):
    """A peer's value; no two sets of peers have the same mean of it."""
    return float((27, 155, 451, 775, 802, 1162, 1184, 1992)[rank])


def pattern(elements):
    import numpy as np

    return (1 + np.arange(elements, dtype=np.float32) % 8 / 8).astype(np.float32)


def held(vector, scale, rank, peers):
    """What a vector holds: shares averaged at all, and how many are in the averages."""
    import numpy as np

    means = {}
    for size in range(1, peers + 1):
        for members in combinations(range(peers), size):
            means[np.mean([base(m) for m in members])] = members
    assert len(means) == 2**peers - 1
    known = np.array(sorted(means))
    values, counts = np.unique((vector / scale).round(3), return_counts=True)
    nearest = known[np.abs(values[:, None] - known[None, :]).argmin(axis=1)]
    sets = [
        means[value] if abs(value - found) < 0.002 else ()
        for found, value in zip(values, nearest, strict=True)
    ]
    averaged = sum(int(count) for members, count in zip(sets, counts, strict=True) if len(members) > 1)
    return {
        "averaged": averaged / vector.size,
        "fewest": min(len(members) for members in sets),
        "whole": max(len(members) for members in sets),
        "digest": hashlib.sha256(vector.tobytes()).hexdigest()[:16],
    }


def tell(**fields):
    print(json.dumps(fields), flush=True)


def moshgrid_worker(rank, peers, where, elements, listen, announce):
    import numpy as np
    import torch  # noqa: F401  (its kernels are used when it is loaded, as in a training)

    import moshgrid.p2p.libp2p_network as network
    from moshgrid.averaging import Averager
    from moshgrid.p2p import Node

    if announce:  # others are to dial the relay
        network.listening_addrs = lambda listeners, peer: (f"/ip4/127.0.0.1/tcp/{announce}/p2p/{peer}",)
    scale = pattern(elements)
    vector = scale * np.float32(base(rank))
    node = Node(listen=[f"/ip4/127.0.0.1/tcp/{listen}"], bootstrap=[where] if where else [])
    averager = Averager(node, "faults", like=[vector], group_size=peers, compression="none")
    if rank == 0:
        tell(address=node.addrs[0])
    while len(averager.peers) < peers:
        time.sleep(0.02)
    if rank:
        tell(event="ready")
    for _ in sys.stdin:
        np.multiply(scale, np.float32(base(rank)), out=vector)
        report = averager.step([vector])
        at = time.monotonic()
        tell(at=at, success=report.committed, said=str(report), **held(vector, scale, rank, peers))


def hivemind_worker(rank, peers, where, elements, listen, announce):
    import hivemind
    import torch

    torch.set_num_threads(1)
    scale = torch.from_numpy(pattern(elements))
    announced = [f"/ip4/127.0.0.1/tcp/{announce}"] if announce else None
    dht = hivemind.DHT(
        initial_peers=[where] if where else [],
        host_maddrs=[f"/ip4/127.0.0.1/tcp/{listen}"],
        announce_maddrs=announced,
        use_relay=False,
        start=True,
    )
    averager = hivemind.DecentralizedAverager(
        [scale * base(rank)],
        dht,
        prefix="faults",
        target_group_size=peers,
        next_chunk_timeout=5.0,
        start=True,
    )
    if rank == 0:
        tell(address=str(dht.get_visible_maddrs()[0]))
    else:
        tell(event="ready")
    for _ in sys.stdin:
        with averager.get_tensors() as tensors:
            torch.mul(scale, base(rank), out=tensors[0])
        try:
            gathered = averager.step(timeout=PATIENCE, allow_retries=False)
            said = f"a group of {len(gathered)}" if gathered else "no group"
        except Exception as error:
            gathered, said = None, f"{type(error).__name__}: {error}"
        at = time.monotonic()
        with averager.get_tensors() as tensors:
            vector = tensors[0].numpy().copy()
        tell(at=at, success=bool(gathered), said=said, **held(vector, scale.numpy(), rank, peers))


if __name__ == "__main__":
    main()

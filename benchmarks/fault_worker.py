"""A peer of ``faults.py``: averages when told to and says what it holds afterwards.

usage: python fault_worker.py moshgrid|hivemind RANK PEERS MEGABYTES WHERE|- LISTEN ANNOUNCE
"""

import hashlib
import json
import sys
import time
from itertools import combinations


def main():
    system, rank, peers, megabytes, where, listen, announce = sys.argv[1:]
    worker = {"moshgrid": moshgrid_worker, "hivemind": hivemind_worker}[system]
    elements = round(float(megabytes) * 1e6 / 4)
    worker(int(rank), int(peers), "" if where == "-" else where, elements, int(listen), int(announce))


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
    sys.stdout.write(json.dumps(fields) + "\n")  # one write, not print's two: other threads speak too
    sys.stdout.flush()


def moshgrid_worker(rank, peers, where, elements, listen, announce):
    import numpy as np

    if elements > 4_000_000:  # less is not worth the seconds that this takes
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
    for patience in sys.stdin:
        with averager.get_tensors() as tensors:
            torch.mul(scale, base(rank), out=tensors[0])
        try:
            gathered = averager.step(timeout=float(patience), allow_retries=False)
            said = f"a group of {len(gathered)}" if gathered else "no group"
        except Exception as error:
            gathered, said = None, f"{type(error).__name__}: {error}"
        at = time.monotonic()
        with averager.get_tensors() as tensors:
            vector = tensors[0].numpy().copy()
        tell(at=at, success=bool(gathered), said=said, **held(vector, scale.numpy(), rank, peers))


if __name__ == "__main__":
    main()

"""Error feedback with rounds of averaging: what a codec leaves out of one round arrives in later ones."""

import numpy as np
import trio
from averaging_swarm import swarm

from moshgrid.compression import EF14, get_codec
from moshgrid.p2p.testing import run_virtual

ROUNDS = 12


def test_ef14_makes_up_for_what_int4_leaves_out():
    """Reducers differ from part to part, and everybody's own part counts as the others' do."""
    codec = get_codec("int4")

    async def main():
        rng = np.random.default_rng(0)
        gradients = [rng.normal(size=1024).astype(np.float32) for _ in range(3)]
        async with swarm(3, compression="int4", size=1018) as group:  # and a (3, 2) array
            memories = [EF14(1024) for _ in group.peers]
            total, plain = np.zeros(1024), np.zeros(1024)

            async def one(peer, memory, gradient):
                vector = memory.outgoing(gradient)
                counted = codec.decode(codec.encode(vector).data, vector.size, vector.dtype)
                peer.arrays[0][...], peer.arrays[1][...] = vector[:1018], vector[1018:].reshape(3, 2)
                report = await peer.core.step(peer.arrays, 1.0, 1)
                assert report.committed and len(report.contributors) == 3
                memory.sent(counted)

            for _ in range(ROUNDS):
                async with trio.open_nursery() as nursery:
                    for each in zip(group.peers, memories, gradients, strict=True):
                        nursery.start_soon(one, *each)
                total += np.concatenate([array.reshape(-1) for array in group.peers[0].arrays])
                coded = [codec.decode(codec.encode(g).data, g.size, g.dtype) for g in gradients]
                plain += np.mean(coded, axis=0)
            exact = ROUNDS * np.mean(gradients, axis=0)
            with_memory, without = np.abs(total - exact).mean(), np.abs(plain - exact).mean()
            assert with_memory < without / 2, (with_memory, without)
            # What is missing is in the memories, but for the rounding of the averages themselves.
            owed = np.mean([memory.residual for memory in memories], axis=0)
            assert np.abs(total + owed - exact).mean() < np.abs(total - exact).mean()

    run_virtual(main)

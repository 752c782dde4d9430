"""A bootstrap node without a DHT: those who come to it still find each other."""

import random

import trio

from moshgrid.dht import DHTNode
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch, run_virtual


def test_peers_find_each_other_through_a_node_that_has_no_dht():
    async def main():
        async with MemorySwitch(seed=1) as switch, trio.open_nursery() as nursery:

            async def host(number, bootstrap, *, task_status):
                identity = Identity.from_seed(bytes([number]) * 32)
                network = switch.network(identity)
                async with open_host(
                    network,
                    identity,
                    bootstrap=bootstrap,
                    clock=VirtualClock(),
                    rng=random.Random(number),
                ) as opened:
                    task_status.started(opened)
                    await trio.sleep_forever()

            bare = await nursery.start(host, 1, ())
            address = tuple(bare.network.addrs)
            first = await DHTNode.of(await nursery.start(host, 2, address))
            began = trio.current_time()
            assert await first.joined(10)
            await first.put("greeting", "hello", ttl=60)
            assert (await first.get("greeting")).value == "hello"
            assert await first.get("nothing") is None
            assert trio.current_time() < began + 1.0
            others = [await DHTNode.of(await nursery.start(host, n, address)) for n in (3, 4)]
            for other in others:
                assert await other.joined(10)
                with trio.fail_after(30):
                    async with other.watch("greeting") as changes:
                        assert (await changes.receive()).author == first.host.peer_id
            nursery.cancel_scope.cancel()

    run_virtual(main)

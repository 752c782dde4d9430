"""Just the DHT, for other tools: who offers which service right now. No numpy, no torch.

python examples/service_registry.py [LINK]    # without LINK: three machines in this process, as a try-out
"""

import sys

from moshgrid.dht import DHT
from moshgrid.p2p import Node

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


def announce(dht: DHT, vram: int) -> None:
    """Says for a minute that this machine has a GPU; ``dht.keep`` would say so until closed."""
    report = dht.put("services/gpu", {"vram": vram}, ttl=60)
    print(f"announced at {len(report.stored_at)} peers")


def look(dht: DHT) -> None:
    """Lists everybody's announcements; each is signed by its author and expires by itself."""
    for record in dht.get_all("services/gpu").values():
        print(f"{record.author} offers {record.value}, expires in {record.expires_in:.0f} s")


if len(sys.argv) > 1:
    with DHT.join(sys.argv[1]) as dht:
        announce(dht, vram=24)
        look(dht)
else:  # three machines; the others know the first one's address and nothing else
    with (
        Node(listen=LISTEN, network="my-tool") as node,
        DHT(node) as first,
        DHT.join(node.link, listen=LISTEN) as second,
        DHT.join(node.link, listen=LISTEN) as third,
    ):
        announce(first, vram=24)
        announce(second, vram=80)
        look(third)

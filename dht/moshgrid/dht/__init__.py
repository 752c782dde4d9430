"""A distributed hash table of signed, expiring records: who says what under which key.

``DHT`` is for programs without an event loop, ``AsyncDHT`` for asyncio, ``DHTNode`` for code that
already runs inside a node's loop.
"""

from moshgrid.dht.dht_node import DHTNode
from moshgrid.dht.keeping import Keep
from moshgrid.dht.limits import Limits
from moshgrid.dht.values import Record
from moshgrid.dht.writing import PutReport

__all__ = ["DHTNode", "Keep", "Limits", "PutReport", "Record"]

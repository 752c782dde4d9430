"""A distributed hash table of signed, expiring records: who says what under which key.

``DHT`` is for programs without an event loop, ``AsyncDHT`` for asyncio, ``DHTNode`` for code that
already runs inside a node's loop.
"""

from moshgrid.dht.async_dht import AsyncDHT, AsyncKept, AsyncRecordWatch
from moshgrid.dht.config import DHTConfig
from moshgrid.dht.dht import DHT, Kept, RecordWatch
from moshgrid.dht.dht_node import DHTNode
from moshgrid.dht.inspecting import AskedPeer, HeldRecord, Inspection
from moshgrid.dht.keeping import Keep
from moshgrid.dht.limits import Limits
from moshgrid.dht.namespaces import Validator
from moshgrid.dht.values import Record
from moshgrid.dht.writing import PutReport

__all__ = [
    "DHT",
    "AskedPeer",
    "AsyncDHT",
    "AsyncKept",
    "AsyncRecordWatch",
    "DHTConfig",
    "DHTNode",
    "HeldRecord",
    "Inspection",
    "Keep",
    "Kept",
    "Limits",
    "PutReport",
    "Record",
    "RecordWatch",
    "Validator",
]

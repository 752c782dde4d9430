"""Public test doubles: an in-memory network in virtual time."""

from moshgrid.p2p.testing.memory_network import MemoryNetwork
from moshgrid.p2p.testing.memory_switch import MemorySwitch
from moshgrid.p2p.testing.reachability import Nat, Reachability
from moshgrid.p2p.testing.virtual import run_virtual

__all__ = ["MemoryNetwork", "MemorySwitch", "Nat", "Reachability", "run_virtual"]

"""The NAT lab: an internet of namespaces with public hosts, and homes with peers behind routers.

    with Lab() as lab:
        relay = lab.public_host("relay", group=1)
        home = lab.home("anna", Nat.PORT_RESTRICTED)
        home.peer.start([sys.executable, "peer.py"])    # or: ip netns exec, home.peer.namespace.name

Everything is in namespaces of its own and leaves with the lab; the machine's own network is not touched.
Public addresses lie in one /16 for each `group`, so that witnesses can be of different address groups.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from namespaces import LabError, Namespace, own_prefix, remove_leftovers
from routers import ONE_PEER_ONLY, Nat, Passed, Router, counters, rules
from wires import FAR, NEAR, LaidWire, Wire, switch_offloads_off

GATEWAY = "169.254.1.1"  # the internet's end of every cable
_FIRST_GROUP = 61  # group 0 is 61.10.0.0/16
_numbers = itertools.count(1)

_INTERNET = """
table ip internet {
  set passed { type ipv4_addr . ipv4_addr; flags dynamic; counter; size 65535; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr { 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 } drop
    add @passed { ip saddr . ip daddr }
  }
}
"""


class Host:
    """A computer in the lab: where processes start and sockets are opened."""

    def __init__(self, name: str, namespace: Namespace, address: str) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address  # its own; the internet may know it under its router's
        self._processes: list[subprocess.Popen[Any]] = []
        self._ends: list[Callable[[], None]] = []

    def on_close(self, end: Callable[[], None]) -> None:
        """Call this before the host is removed."""
        self._ends.append(end)

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on this host (options are Popen's); the lab kills it at its end."""
        process = self.namespace.start(argv, **options)
        self._processes.append(process)
        return process

    def socket(self, kind: int = socket.SOCK_STREAM, port: int = 0) -> socket.socket:
        """A socket on this host, usable from anywhere, bound to port (shareable); IPv4."""
        with self.namespace.entered():
            made = socket.socket(socket.AF_INET, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("0.0.0.0", port))
        return made

    def connections(self, six: bool = False) -> list[tuple[int, str, int]]:
        """Established TCP connections: own port, the other's address and port."""
        return self.namespace.connections(six)

    def close(self) -> None:
        for end in self._ends:
            end()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


class Home:
    """Peers on one LAN behind a router, or behind two in a row."""

    def __init__(self, nat: Nat, routers: list[Router], peers: list[Host]) -> None:
        self.nat = nat
        self.routers = routers  # the outermost first
        self.peers = peers

    @property
    def peer(self) -> Host:
        """The only or first peer."""
        return self.peers[0]

    @property
    def address(self) -> str:
        """Under which the internet sees these peers."""
        return self.routers[0].address

    def sent(self) -> dict[str, Passed]:
        """What the outermost router let out, by remote address."""
        return self.routers[0].sent()

    def received(self) -> dict[str, Passed]:
        """What the outermost router let in, by remote address."""
        return self.routers[0].received()


class Lab:
    """An internet without anything at first. Close it, or use it as a context manager."""

    def __init__(self) -> None:
        remove_leftovers()
        self._prefix = own_prefix(next(_numbers))
        self._namespaces: list[Namespace] = []
        self._hosts: list[Host] = []
        self.wires: dict[str, LaidWire] = {}  # by the name of the host or home, the newest of that name
        self._wires: list[LaidWire] = []
        self._names: Counter[str] = Counter()
        self._cables = itertools.count(1)
        self._lans = itertools.count(1)
        self._carried = itertools.count(100)  # numbers in LANs that they are carried to
        self._given: dict[int, int] = {}
        self._cable_of: dict[str, str] = {}
        self._closed = False
        try:
            self._internet = self._namespace("internet")
            self._internet.set("ipv4/ip_forward", 1)
            self._internet.ip("route add blackhole default")  # private addresses lead nowhere, silently
            self._internet.nft(_INTERNET)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def public_host(self, name: str, group: int = 0, wire: Wire | None = None) -> Host:
        """A host with an address of this group (a /16) that everybody can reach."""
        namespace = self._namespace(name)
        address = self._plug(namespace, name, group, wire)
        return self._host(name, namespace, address)

    def home(
        self,
        name: str,
        nat: Nat,
        group: int = 0,
        peers: int = 1,
        lan: str | None = None,
        wire: Wire | None = None,
    ) -> Home:
        """Peers behind a router of this type, whose public address is of this group.

        lan: the first three numbers of the LAN's addresses; each home has its own otherwise.
        wire: the way between the router and the internet; the shortest otherwise.
        Raises LabError: more than one peer behind a type that forwards to one.
        """
        if peers > 1 and nat in ONE_PEER_ONLY:
            raise LabError(f"a router of type {nat.value} forwards to one peer: use peers=1")
        lan = lan or f"10.{next(self._lans)}.0"
        outer = self._namespace(f"{name}-router")
        routers = [Router(outer, self._plug(outer, name, group, wire))]
        if nat is Nat.DOUBLE:
            inner = self._namespace(f"{name}-inner")
            outer.ip("link add lan type bridge", "link set lan up", "address add 100.64.0.1/24 dev lan")
            _cable(outer, "p1", inner, "wan", "100.64.0.2/24", "100.64.0.1")
            self._route(outer, nat, "100.64.0.2")
            routers.append(Router(inner, "100.64.0.2"))
        last = routers[-1].namespace
        last.ip("link add lan type bridge", "link set lan up", f"address add {lan}.1/24 dev lan")
        self._route(last, nat, f"{lan}.2")
        hosts = []
        for number in range(peers):
            called = name if peers == 1 else f"{name}-{number}"
            namespace, address = self._namespace(called), f"{lan}.{number + 2}"
            _cable(last, f"q{number}", namespace, "eth0", f"{address}/24", f"{lan}.1")
            hosts.append(self._host(called, namespace, address))
        return Home(nat, routers, hosts)

    def internet_end(self, namespace: Namespace) -> tuple[Namespace, str]:
        """The internet, and its end of the cable of a public host or a home's outermost router."""
        return self._internet, self._cable_of[namespace.name]

    def passed(self) -> dict[tuple[str, str], Passed]:
        """What crossed the internet since the start, by source and destination address."""
        listing = self._internet.nft_json("set", "ip", "internet", "passed")
        return {(k.split()[0], k.split()[1]): v for k, v in counters(listing).items()}

    def close(self) -> None:
        """Kill every process of the lab and remove every namespace of it."""
        if self._closed:
            return
        self._closed = True
        for host in self._hosts:
            host.close()
        for wire in self._wires:
            wire.close()
        for namespace in reversed(self._namespaces):
            namespace.remove()

    def _namespace(self, name: str) -> Namespace:
        self._names[name] += 1
        times = self._names[name]
        namespace = Namespace(self._prefix + (name if times == 1 else f"{name}-again{times}"))
        self._namespaces.append(namespace)
        return namespace

    def _host(self, name: str, namespace: Namespace, address: str) -> Host:
        host = Host(name, namespace, address)
        self._hosts.append(host)
        return host

    def _plug(self, namespace: Namespace, name: str, group: int, wire: Wire | None) -> str:
        """Connect a namespace's device `wan` with the internet; the address it got."""
        address = self._free_address(group)
        cable = self._cable_of[namespace.name] = f"c{next(self._cables)}"
        if wire is None:
            self._internet.ip(f"link add {cable} type veth peer name wan netns {namespace.name}")
        else:
            between = self._namespace(f"{name}-wire")
            self._internet.ip(f"link add {cable} type veth peer name {NEAR} netns {between.name}")
            between.ip(
                f"link add {FAR} type veth peer name wan netns {namespace.name}",
                *(f"link set {end} up" for end in (NEAR, FAR)),
            )
            ends = (self._internet, cable), (between, NEAR), (between, FAR), (namespace, "wan")
            for place, device in ends:
                switch_offloads_off(place, device)
        self._internet.ip(
            f"address add {GATEWAY}/32 dev {cable}",
            f"link set {cable} up",
            f"route add {address}/32 dev {cable}",
        )
        namespace.ip(
            f"address add {address}/32 dev wan",
            "link set wan up",
            f"route add default via {GATEWAY} dev wan onlink",
        )
        if wire is not None:
            self.wires[name] = LaidWire(wire, between)
            self._wires.append(self.wires[name])
        return address

    def _free_address(self, group: int) -> str:
        number = self._given[group] = self._given.get(group, 9) + 1
        return f"{_FIRST_GROUP + group}.10.{number // 200}.{number % 200 + 1}"

    def renumber(self, home: Home, group: int) -> None:
        """Give a home another public address, as providers do; nobody is told, and mappings are gone."""
        outer, address = home.routers[0], self._free_address(group)
        cable = self._cable_of[outer.namespace.name]
        outer.namespace.ip(f"address add {address}/32 dev wan", f"address del {outer.address}/32 dev wan")
        self._internet.ip(f"route add {address}/32 dev {cable}", f"route del {outer.address}/32 dev {cable}")
        home.routers[0] = Router(outer.namespace, address)

    def carry(self, host: Host, home: Home) -> None:
        """Unplug a host and connect it with another home's network, where it gets another address."""
        switch, number = home.routers[-1].namespace, next(self._carried)
        lan = home.peer.address.rpartition(".")[0]
        host.namespace.ip("link del eth0")
        host.address = f"{lan}.{number}"
        _cable(switch, f"q{number}", host.namespace, "eth0", f"{host.address}/24", f"{lan}.1")

    def _route(self, namespace: Namespace, nat: Nat, peer: str) -> None:
        namespace.set("ipv4/ip_forward", 1)
        namespace.nft(rules(nat, peer))


def _cable(switch: Namespace, port: str, host: Namespace, device: str, address: str, gateway: str) -> None:
    """Connect a host with the LAN bridge of a router."""
    switch.ip(
        f"link add {port} type veth peer name {device} netns {host.name}",
        f"link set {port} master lan",
        f"link set {port} up",
    )
    host.ip(
        f"address add {address} dev {device}",
        f"link set {device} up",
        f"route add default via {gateway} dev {device}",
    )

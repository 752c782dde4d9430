"""What ``moshgrid doctor`` makes of what it saw: each fact in words, what to do about it, and a diagnosis."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moshgrid.p2p.addresses import relay_of
from moshgrid.p2p.ip_ranges import is_home, is_loopback, plain_ip
from moshgrid.p2p.observed_addrs import Place
from moshgrid.p2p.reachability import Reachability, family_of

__all__ = ["Address", "Check", "Facts", "Findings", "diagnose"]

Outcome = Literal["good", "help", "bad", "unknown"]
_SIGNS: dict[str, str] = {"good": "ok  ", "help": "help", "bad": "BAD ", "unknown": "?   "}
_DESCRIPTORS = 1024
_CLOCK_WARN_MS, _CLOCK_USELESS_MS = 3_000, 30_000


@dataclass(frozen=True)
class Facts:
    """What was seen. Addresses are full multiaddrs, IP addresses plain text."""

    listening: Sequence[str]
    own_hosts: Sequence[str]
    bootstrap: Sequence[tuple[str, str]] = ()
    """Each address of the link, and ``""`` when it answered, else why not."""
    seen_at: Sequence[tuple[str, int]] = ()
    """Where others saw calls from the listening port come from."""
    reachability: Reachability | None = None
    """None when nobody was there to ask."""
    mapping: str | None = None
    """The protocol by which a router forwards the port, and where; None when none does."""
    asked_router: bool = False
    relayed: Sequence[str] = ()
    clock: tuple[float, int] = (0.0, 0)
    """How many ms others' clocks are ahead, and how many others."""
    descriptors: int = sys.maxsize
    port_taken: str = ""
    """The wanted listening address, when it was not free."""


@dataclass(frozen=True)
class Address:
    """One address of this peer, and who can use it."""

    address: str
    kind: Literal["loopback", "local network", "public", "outside", "relayed"]
    outcome: Outcome
    meaning: str


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``advice`` is empty where there is nothing to do."""

    name: str
    outcome: Outcome
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Findings:
    """The diagnosis. ``exit_code``: 0 good, 1 reachable only with the help of others, 2 broken."""

    verdict: Literal["public", "punchable", "private", "unknown", "local"]
    exit_code: int
    summary: str
    addresses: Sequence[Address] = ()
    checks: Sequence[Check] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As a terminal has it."""
        lines = ["addresses"]
        lines += [
            f"  {_SIGNS[each.outcome]}  {each.address}\n        {each.meaning}" for each in self.addresses
        ]
        lines.append("checks")
        for check in self.checks:
            lines.append(f"  {_SIGNS[check.outcome]}  {check.name}: {check.text}")
            if check.advice:
                lines.append(f"        → {check.advice}")
        return [*lines, "", self.summary]


def diagnose(facts: Facts) -> Findings:
    """Puts the facts together."""
    checks = [
        check
        for check in (
            _listening(facts),
            *_bootstrap(facts),
            _outside(facts),
            _mapping(facts),
            _relays(facts),
            _six(facts),
            _clock(facts),
            _descriptors(facts),
        )
        if check is not None
    ]
    found = facts.reachability
    broken = [check for check in checks if check.outcome == "bad"]
    if broken:
        verdict = found.verdict if found is not None else "unknown"
        return Findings(verdict, 2, f"Broken: {broken[0].text}", _addresses(facts), checks)
    if found is None:
        summary = "Nothing is wrong here. Give the link of a network to learn how others reach this computer."
        if any(not error for _, error in facts.bootstrap):
            summary = "Good: all that was asked is in the local network, where peers dial each other."
        return Findings("local", 0, summary, _addresses(facts), checks)
    helped = "others reach this peer by hole punching" if found.verdict == "punchable" else "others reach it"
    summaries = {
        "public": "Good: everybody reaches this peer directly.",
        "punchable": f"Works with help: {helped}, begun over a relay.",
        "private": "Works with help: most others reach this peer through relays, which are slower.",
        "unknown": "Works as far as is known: nobody could test whether others reach this peer.",
    }
    summary = summaries[found.verdict]
    if found.verdict in ("punchable", "private") and not facts.relayed:
        summary += " No relay was found here, so until there is one, only peers that it calls itself know it."
    return Findings(found.verdict, int(found.verdict != "public"), summary, _addresses(facts), checks)


def _host(addr: str) -> str | None:
    _, kind, host, *_ = addr.split("/")
    return host if kind in ("ip4", "ip6") else None


def _addresses(facts: Facts) -> list[Address]:
    found = []
    proven = _proven(facts)
    for addr in facts.listening:
        host = _host(addr)
        if host is None or is_loopback(host):
            found.append(Address(addr, "loopback", "good", "for other programs on this computer only"))
        elif is_home(host):
            found.append(Address(addr, "local network", "good", "for peers in the same local network"))
        elif any(place[0] == host for place in proven):
            found.append(Address(addr, "public", "good", "strangers called it and came through"))
        else:
            found.append(_not_proven(facts, addr, host))
    own = {_host(addr) for addr in facts.listening}
    for host, port in dict.fromkeys([*proven, *facts.seen_at]):
        if host in own:
            continue
        addr = f"/ip{plain_ip(host).version}/{host}/tcp/{port}"
        if (host, port) in proven:
            found.append(Address(addr, "outside", "good", "strangers called it and came through"))
        else:
            text = "where others see this peer, behind a router; strangers do not get in, or none has tried"
            if (found_here := _found(facts, host)) is not None and found_here.verdict == "private":
                text = "where one of the others sees this peer; the router shows each of them another port"
            found.append(Address(addr, "outside", "help", text))
    for addr in facts.relayed:
        found.append(Address(addr, "relayed", "help", "through a relay, which passes everything on"))
    return found


def _found(facts: Facts, host: str) -> Reachability | None:
    """What is known over the address family of ``host``."""
    if facts.reachability is None or not facts.reachability.families:
        return facts.reachability
    return facts.reachability.families.get(family_of(host))


def _proven(facts: Facts) -> list[Place]:
    if facts.reachability is None:
        return []
    each = list(facts.reachability.families.values()) or [facts.reachability]
    return [place for found in each if found.verdict == "public" for place in found.places]


def _not_proven(facts: Facts, addr: str, host: str) -> Address:
    """A public address of this computer that nobody is known to have come through to."""
    known = _found(facts, host)
    if known is not None and known.verdict == "punchable" and "lets no strangers in" in known.why:
        text = "a public address of this computer, behind a firewall: strangers called it and did not get in"
        return Address(addr, "public", "help", text)
    text = "a public address of this computer; not proven that strangers get through to it"
    return Address(addr, "public", "unknown", text)


def _is_public(facts: Facts) -> bool:
    return facts.reachability is not None and facts.reachability.verdict == "public"


def _listening(facts: Facts) -> Check:
    if facts.port_taken:
        text = f"{facts.port_taken} is in use, perhaps by a node that runs here; another port was tried"
        return Check("listening", "help", text, "stop the node, or give another address with --listen")
    return Check("listening", "good", f"on {len(facts.listening)} addresses")


def _bootstrap(facts: Facts) -> list[Check]:
    checks, reached = [], sum(not error for _, error in facts.bootstrap)
    for addr, error in facts.bootstrap:
        if not error:
            checks.append(Check("link", "good", f"{addr} answered"))
            continue
        advice = "the link is old, or that peer is not running"
        if "no answer" in error or "timed out" in error:
            advice = "outgoing connections to this port may be blocked here; try another network"
        outcome: Outcome = "help" if reached else "bad"
        checks.append(Check("link", outcome, f"{addr}: {error}", advice))
    return checks


def _outside(facts: Facts) -> Check | None:
    found = facts.reachability
    if found is None:
        return None
    here = found.families.get("ip4", found)  # what IPv6 is good for is a finding of its own
    return _judged("from outside", here)


def _judged(name: str, found: Reachability) -> Check:
    outcomes: dict[str, Outcome] = {"public": "good", "unknown": "unknown"}
    outcome = outcomes.get(found.verdict, "help")
    return Check(name, outcome, f"{found.verdict}: {found.why}", found.improve)


def _mapping(facts: Facts) -> Check | None:
    if facts.mapping is not None:
        return Check("router", "good", f"forwards the port to this computer ({facts.mapping})")
    if facts.asked_router and not _is_public(facts):
        advice = "switch UPnP or NAT-PMP on in the router, or forward the port there by hand"
        return Check("router", "help", "it forwards no port when asked (PCP, NAT-PMP, UPnP)", advice)
    return None


def _relays(facts: Facts) -> Check | None:
    if facts.reachability is None or _is_public(facts):
        return None
    relays = {relay_of(addr) for addr in facts.relayed}
    if relays:
        return Check("relays", "good", f"{len(relays)} pass connections on to this peer")
    advice = "somebody whose computer is reachable can run: moshgrid node --relay"
    return Check("relays", "help", "none was found", advice)


def _six(facts: Facts) -> Check:
    six = [host for host in facts.own_hosts if ":" in host and not is_home(host)]
    if not six:
        return Check("IPv6", "help", "this computer has no address of its own in the IPv6 internet")
    if any(_host(addr) in six for addr in facts.listening):
        found = None if facts.reachability is None else facts.reachability.families.get("ip6")
        if found is None:
            return Check("IPv6", "good", f"listening on {six[0]}")
        return _judged("IPv6", found)
    advice = "listen on IPv6 too: --listen /ip6/::/tcp/31337; with it most routers need no forwarding"
    return Check("IPv6", "help", f"there is {six[0]}, and nothing listens on it", advice)


def _clock(facts: Facts) -> Check | None:
    ahead, peers = facts.clock
    if not peers:
        return None
    others = "one peer" if peers == 1 else f"{peers} peers"
    if abs(ahead) < _CLOCK_WARN_MS:
        return Check("clock", "good", f"agrees with {others} within {max(0.1, abs(ahead) / 1000):.1f} s")
    side = "behind" if ahead > 0 else "ahead of"
    useless = abs(ahead) > _CLOCK_USELESS_MS and peers > 1
    text = f"this computer's clock is {abs(ahead) / 1000:.1f} s {side} that of {others}"
    return Check("clock", "bad" if useless else "help", text, "set it, for example by NTP")


def _descriptors(facts: Facts) -> Check:
    if facts.descriptors >= _DESCRIPTORS:
        many = "without a limit" if facts.descriptors == sys.maxsize else f"{facts.descriptors}"
        return Check("open files", "good", f"{many} at once")
    text = f"this process may have only {facts.descriptors} files and connections open"
    return Check("open files", "help", text, f"raise it before starting: ulimit -n {4 * _DESCRIPTORS}")

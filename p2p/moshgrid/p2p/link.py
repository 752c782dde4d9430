"""Links: one line of text that says which network, which run, and through whom to join."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, unquote

from moshgrid.p2p.addresses import split_addr
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import peer_id_to_bytes

__all__ = ["Link"]

_SCHEME = "moshgrid://"
_FORM = "moshgrid://NETWORK[/RUN]@HOST:PORT/PEER[,HOST:PORT/PEER…][#key=AUTHORITY]"
_NAME = re.compile(r"[\w.+-]{1,128}")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):(\d{1,5})")
_DNS = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")
_MAX_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Link:
    """What a link holds; ``str(link)`` is the link again."""

    network: str = "public"
    run: str | None = None
    bootstrap: tuple[str, ...] = ()
    """Full multiaddrs."""
    authority: str | None = None
    """The public key that signs plans and states, as the link spells it."""

    def __post_init__(self) -> None:
        for what, name in (("network", self.network), ("run", self.run)):
            if name is not None and not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"{what} name {name!r} is not usable: 1 to 128 letters, digits, '-', '_', '.' or '+'"
                )
        for addr in self.bootstrap:
            _check_addr(addr)

    @classmethod
    def parse(cls, text: str) -> Link:
        """Reads a link, or one or several multiaddrs separated by commas. Raises ConfigurationError."""
        text = text.strip()
        if len(text) > _MAX_CHARACTERS:
            raise ConfigurationError(f"a link has at most {_MAX_CHARACTERS} characters")
        if text.startswith("/"):
            return cls(bootstrap=tuple(part.strip() for part in text.split(",") if part.strip()))
        if not text.startswith(_SCHEME):
            raise _wrong(text, f"it must begin with {_SCHEME} (or be a multiaddr, which begins with /)")
        body, _, fragment = text.removeprefix(_SCHEME).partition("#")
        names, at, places = body.partition("@")
        if not at:
            raise _wrong(text, "there is no '@' between the network and the addresses")
        network, slash, run = names.partition("/")
        if not network:
            raise _wrong(text, "the network's name is missing")
        if slash and not run:
            raise _wrong(text, "the run's name after '/' is missing")
        addrs = tuple(_parse_place(text, place) for place in places.split(",") if place)
        if not addrs:
            raise _wrong(text, "there is no address after '@'")
        return cls(unquote(network), unquote(run) if run else None, addrs, _parse_fragment(text, fragment))

    def __str__(self) -> str:
        run = f"/{quote(self.run, safe='')}" if self.run else ""
        key = f"#key={quote(self.authority, safe='')}" if self.authority else ""
        places = ",".join(_format_place(addr) for addr in self.bootstrap)
        return f"{_SCHEME}{quote(self.network, safe='')}{run}@{places}{key}"


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{text[:200]!r} is not a link: {why}.\n  The form is {_FORM}")


def _parse_place(text: str, place: str) -> str:
    place = place.strip()
    if place.startswith("/"):
        return place
    host_port, slash, peer = place.partition("/")
    match = _HOST_PORT.fullmatch(host_port)
    if match is None:
        raise _wrong(text, f"{host_port!r} is not HOST:PORT (an IPv6 address goes in brackets)")
    host, port = match[1].strip("[]"), int(match[2])
    if not 0 < port < 65536:
        raise _wrong(text, f"port {port} is not between 1 and 65535")
    if not slash or not peer:
        raise _wrong(text, f"the peer id after {host_port!r} is missing")
    try:
        peer_id_to_bytes(peer)  # type: ignore[arg-type]  # text from outside, checked here
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    try:
        kind = f"ip{ip_address(host).version}"
    except ValueError:
        if not _DNS.fullmatch(host):
            raise _wrong(text, f"{host!r} is neither an address nor a host name") from None
        kind = "dns4"
    return f"/{kind}/{host}/tcp/{port}/p2p/{peer}"


def _parse_fragment(text: str, fragment: str) -> str | None:
    if not fragment:
        return None
    try:
        fields = dict(parse_qsl(fragment, strict_parsing=True))
    except ValueError:
        fields = {}
    if set(fields) != {"key"}:
        raise _wrong(text, "after '#' only key=AUTHORITY is known")
    return fields["key"]


def _format_place(addr: str) -> str:
    _, kind, host, *_, port, _, peer = addr.split("/")
    if kind not in ("ip4", "ip6", "dns4") or addr.count("/") != 6:
        return addr  # only plain TCP has a short form; a link may hold full multiaddrs too
    short = f"[{host}]:{port}/{peer}" if kind == "ip6" else f"{host}:{port}/{peer}"
    try:
        return short if _parse_place(short, short) == addr else addr
    except ConfigurationError:  # a name that the short form does not know
        return addr


def _check_addr(addr: str) -> None:
    if addr.startswith("/memory/"):
        return  # in-memory networks of tests
    try:
        split_addr(addr)
    except ValueError as error:
        raise ConfigurationError(f"{addr[:200]!r}: {error}") from None

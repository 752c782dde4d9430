"""How much a stranger may make this peer hold."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.dht.shards import MOST_RECORDS

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Quotas of one storer for one network. The peer's own records are exempt from the author's."""

    records_per_key: int = MOST_RECORDS
    """Beyond, authors go on to shards of the key."""
    records_per_author: int = 64
    bytes_per_author: int = 64 * 1024
    """Of envelopes."""
    bytes_per_block: int = 1024 * 1024
    """Brought by connections from one address block (IPv4 /24, IPv6 /48), once the store is half full."""
    bytes_per_range: int = 8 * 1024 * 1024
    """The same for a range (/16, /32); what is over it makes room first."""
    subkeys_per_block: int = 8
    """Under one key and brought from one block, once the key has half of its records."""
    subkeys_per_range: int = 32
    total_bytes: int = 64 * 1024 * 1024
    """Of envelopes; above it records are evicted in an order that nobody outside can foresee."""
    floors: int = 262_144
    """Subkeys whose highest seq is remembered; beyond, new subkeys are refused until some lapse. Once half
    are taken, one range has a sixteenth of them."""
    watchers_per_key: int = 256
    keys_per_watcher: int = 256
    watchers: int = 16_384
    """Of all keys together."""
    watch_seconds: float = 60.0
    """How long a watcher hears of a key without renewing."""
    puts_per_second: float = 20.0
    """Messages that one peer may have records stored by, or push by; each holds up to 64."""
    puts_at_once: float = 100.0
    signatures_per_second: float = 1_000.0
    """Checked for all peers together; what comes beyond is refused as QUOTA."""
    bad_signatures_per_minute: float = 20.0
    """Of one peer; beyond, nothing is taken from it for a minute."""

"""``moshgrid dht``: reading, writing, watching and inspecting keys of a network from the command line."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moshgrid.dht import DHT, DHTConfig, Record
from moshgrid.p2p.errors import ConfigurationError

__all__ = ["dht_app"]

dht_app = typer.Typer(
    help="Keys of a network's hash table: get, put, watch and inspect them.", no_args_is_help=True
)

JoinOption = Annotated[
    str,
    typer.Option("--join", envvar="MOSHGRID_LINK", help="Link of the network, as `moshgrid node` prints."),
]
IdentityOption = Annotated[
    Path | None, typer.Option(help="Key file of the author; without it a new one for this call only.")
]
ListenOption = Annotated[list[str] | None, typer.Option(help="Address to listen on; any free port if none.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]
_MAX_DEPTH = 64


@dht_app.command("get")
def get(key: str, join: JoinOption, listen: ListenOption = None, as_json: JsonOption = False) -> None:
    """Print the live records of a key, the newest first; exit status 1 when there is none."""
    with _joined(join, listen) as dht:
        records = sorted(dht.get_all(key).values(), key=lambda record: -record.seq)
    if as_json:
        print(_json({"key": key, "records": [_record(record) for record in records]}))
    else:
        for record in records:
            print(_line(record))
    if not records:
        sys.exit(1)


@dht_app.command("put")
def put(
    key: str,
    value: str,
    join: JoinOption,
    ttl: Annotated[float, typer.Option(help="Seconds until it expires: 1 to 3600.")] = 600,
    suffix: Annotated[str, typer.Option(help="Tells apart several records of one author.")] = "",
    identity: IdentityOption = None,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store VALUE (JSON, or else plain text) under KEY; exit status 1 when no peer took it."""
    with _joined(join, listen, identity) as dht:
        own = dht.peer_id
        report = dht.put(key, _parse(value), ttl, suffix)
    held = [peer for peer in report.stored_at if peer != own]
    if as_json:
        print(
            _json(
                {
                    "key": key,
                    "author": own,
                    "stored_at": held,
                    "refused": report.refused,
                    "pending": list(report.pending),
                }
            )
        )
    else:
        print(f"stored at {len(held)} peers, {len(report.pending)} more are being asked")
        for peer, reason in report.refused.items():
            print(f"  {peer} refused: {reason}")
    if not held:  # this process is about to end, and what it holds itself with it
        sys.exit(1)


@dht_app.command("watch")
def watch(
    key: str,
    join: JoinOption,
    count: Annotated[int, typer.Option(help="End after so many records; 0: only at Ctrl+C.")] = 0,
    listen: ListenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what is stored under KEY, then each change, one line each (JSON: one object each)."""
    with _joined(join, listen) as dht, dht.watch(key) as changes:
        for number, record in enumerate(changes, 1):
            print(_json(_record(record)) if as_json else _line(record), flush=True)
            if number == count:
                return


@dht_app.command("inspect")
def inspect(key: str, join: JoinOption, listen: ListenOption = None, as_json: JsonOption = False) -> None:
    """Show whom a lookup of KEY asks, how far and how long away they are, and who holds what."""
    with _joined(join, listen) as dht:
        seen = dht.inspect(key)
    if as_json:
        asked = [
            {
                "peer": each.peer,
                "hop": each.hop,
                "seconds": each.seconds,
                "records": each.records,
                "bad_records": each.bad_records,
            }
            for each in seen.asked
        ]
        records = [
            {
                "author": each.author,
                "suffix": each.suffix,
                "seq": each.seq,
                "expires_in": each.expires_in,
                "deleted": each.deleted,
                "holders": list(each.holders),
            }
            for each in seen.records
        ]
        value = {"key": key, "hops": seen.hops, "seconds": seen.seconds, "complete": seen.complete}
        print(_json({**value, "asked": asked, "records": records}))
        return
    end = "" if seen.complete else ", cut short"
    print(f"{len(seen.asked)} peers asked in {seen.seconds:.3f} s over {seen.hops} hops{end}")
    for peer in seen.asked:
        time = "no answer" if peer.seconds is None else f"{peer.seconds * 1000:.1f} ms"
        print(f"  {peer.peer}  hop {peer.hop}  {time}  {peer.records} records")
    for record in seen.records:
        kind = "deletion" if record.deleted else "record"
        name = f"{record.author}/{record.suffix}" if record.suffix else record.author
        print(f"{kind} of {name}: {len(record.holders)} holders, expires in {record.expires_in:.0f} s")


def _joined(link: str, listen: list[str] | None, identity: Path | None = None) -> DHT:
    options: dict[str, Any] = {"listen": listen} if listen else {}
    return DHT.join(link, identity=identity, config=DHTConfig(client=True), **options)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise ConfigurationError("the value is nested too deeply") from None


def _record(record: Record) -> dict[str, Any]:
    return {
        "author": record.author,
        "suffix": record.suffix,
        "value": record.value,
        "seq": record.seq,
        "expires_in": record.expires_in,
        "deleted": record.deleted,
    }


def _line(record: Record) -> str:
    said = "(deleted)" if record.deleted else _json(record.value)
    return f"{record.subkey}  {said}  expires in {record.expires_in:.0f} s"


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can say it: bytes as hex, and as text whatever else msgpack can hold and JSON cannot,
    keys too."""
    if depth > _MAX_DEPTH:
        return "nested too deeply"
    match value:
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case bytes():
            return value.hex()
        case dict():
            return {_key(key, depth): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth + 1) for item in value]
    return str(value)


def _key(key: Any, depth: int) -> str:
    said = _plain(key, depth + 1)
    return said if isinstance(said, str) else json.dumps(said)

"""Pre-shared keys of private networks: what a user may give, and the key file that all libp2p share."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

from moshgrid.p2p.errors import ConfigurationError

__all__ = ["format_psk", "load_psk"]

PSK_BYTES = 32

_TITLE = "/key/swarm/psk/1.0.0/"
_MAX_FILE = 4096
_ALLOWED = (
    "psk= takes 32 bytes, the text of a key file, or the path of one. A key file has three lines: "
    f"{_TITLE}  then  /base16/  then 64 hexadecimal digits"
)


def load_psk(given: object) -> bytes:
    """The 32 bytes of a pre-shared key. Raises ConfigurationError, which never quotes the key."""
    if isinstance(given, bytes) and len(given) == PSK_BYTES:
        return given
    if isinstance(given, str) and given.lstrip().startswith(_TITLE):
        return _parse(given, "the text given")
    if isinstance(given, os.PathLike) or (isinstance(given, str) and not _looks_secret(given)):
        return _read(Path(given).expanduser())
    what = f"{len(given)} bytes" if isinstance(given, bytes) else f"a {type(given).__name__}"
    raise ConfigurationError(f"{_ALLOWED}; not {what}.")


def format_psk(psk: bytes) -> str:
    """The text of a key file."""
    if len(psk) != PSK_BYTES:
        raise ValueError(f"a pre-shared key has {PSK_BYTES} bytes, not {len(psk)}")
    return f"{_TITLE}\n/base16/\n{psk.hex()}\n"


def _looks_secret(text: str) -> bool:
    """True for what is a bare key or a damaged key file rather than a path: not to be quoted in an error."""
    return "\n" in text or text.startswith("/key/") or re.fullmatch(r"[0-9A-Za-z+/=]{40,}", text) is not None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise ConfigurationError(
            f"cannot read the key file {str(file)[:200]}: {reason}. {_ALLOWED}."
        ) from None
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"{file} is no key file: it is too long. {_ALLOWED}.")
    return _parse(data.decode("latin-1"), str(file))


def _parse(text: str, source: str) -> bytes:
    lines = [line.strip() for line in text.strip().splitlines()]
    key = None
    if len(lines) == 3 and lines[0] == _TITLE:
        key = _decode(lines[1], lines[2])
    if key is None or len(key) != PSK_BYTES:
        raise ConfigurationError(f"{source} is no key file of a private network. {_ALLOWED}.")
    return key


def _decode(encoding: str, line: str) -> bytes | None:
    try:
        if encoding == "/base16/":
            return bytes.fromhex(line)
        if encoding == "/base64/":
            return base64.b64decode(line, validate=True)
    except (ValueError, binascii.Error):
        pass
    return None

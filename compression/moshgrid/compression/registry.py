"""Which codecs there are: the name in a manifest ↔ the code that reads and writes it."""

from __future__ import annotations

from moshgrid.compression.codec import Codec
from moshgrid.compression.half import Float16
from moshgrid.compression.plain import Plain

__all__ = ["codec_names", "get_codec", "register_codec"]

_CODECS: dict[str, Codec] = {}


def register_codec(codec: Codec) -> None:
    """Makes ``codec`` available under its name to rounds that this process takes part in.

    Raises ValueError when the name is taken by another codec. All members of a group need it.
    """
    if _CODECS.setdefault(codec.name, codec) is not codec:
        raise ValueError(f"there is a codec named {codec.name!r} already")


def get_codec(name: str) -> Codec:
    """The codec of that name. Raises KeyError with the names there are."""
    try:
        return _CODECS[name]
    except KeyError:
        raise KeyError(f"there is no codec {name!r}; there are: {', '.join(codec_names())}") from None


def codec_names() -> tuple[str, ...]:
    """Every registered name, in the order of registration."""
    return tuple(_CODECS)


for _codec in (Plain(), Float16()):
    register_codec(_codec)

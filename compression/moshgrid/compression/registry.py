"""Which codecs there are: the name in a manifest ↔ the code that reads and writes it."""

from __future__ import annotations

from moshgrid.compression.block_int import BlockInt
from moshgrid.compression.brain import BFloat16
from moshgrid.compression.codec import Codec
from moshgrid.compression.half import Float16
from moshgrid.compression.int4 import Int4
from moshgrid.compression.int8 import Int8
from moshgrid.compression.plain import Plain
from moshgrid.compression.quantile8 import Quantile8
from moshgrid.compression.uniform8 import Uniform8

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


for _codec in (Plain(), Float16(), BFloat16(), Int8(), Int4(), Uniform8(), Quantile8()):
    register_codec(_codec)
for _bits in range(2, 9):
    register_codec(BlockInt(_bits))

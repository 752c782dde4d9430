"""Compression: chunk-wise codecs for float vectors, chosen by name. Needs numpy only."""

from moshgrid.compression.codec import Codec, CodecError, CodecProperties, Encoded
from moshgrid.compression.half import Float16
from moshgrid.compression.plain import Plain
from moshgrid.compression.registry import codec_names, get_codec, register_codec

__all__ = [
    "Codec",
    "CodecError",
    "CodecProperties",
    "Encoded",
    "Float16",
    "Plain",
    "codec_names",
    "get_codec",
    "register_codec",
]

"""Compression: chunk-wise codecs for float vectors, chosen by name. Needs numpy only."""

from moshgrid.compression.block_int import BlockInt
from moshgrid.compression.brain import BFloat16
from moshgrid.compression.codec import Codec, CodecError, CodecProperties, Encoded
from moshgrid.compression.codec_plan import CodecPlan
from moshgrid.compression.feedback import EF14, EF21, EF21M, ErrorFeedback
from moshgrid.compression.half import Float16
from moshgrid.compression.int4 import Int4
from moshgrid.compression.int8 import Int8
from moshgrid.compression.plain import Plain
from moshgrid.compression.quantile8 import Quantile8
from moshgrid.compression.reference import (
    add_reference,
    fallback_codec,
    reference_digest,
    subtract_reference,
)
from moshgrid.compression.registry import codec_names, get_codec, register_codec
from moshgrid.compression.uniform8 import Uniform8

__all__ = [
    "EF14",
    "EF21",
    "EF21M",
    "BFloat16",
    "BlockInt",
    "Codec",
    "CodecError",
    "CodecPlan",
    "CodecProperties",
    "Encoded",
    "ErrorFeedback",
    "Float16",
    "Int4",
    "Int8",
    "Plain",
    "Quantile8",
    "Uniform8",
    "add_reference",
    "codec_names",
    "fallback_codec",
    "get_codec",
    "reference_digest",
    "register_codec",
    "subtract_reference",
]

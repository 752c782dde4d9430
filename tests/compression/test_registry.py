"""The registry: names of codecs, and that none of them loads torch."""

import subprocess
import sys

import pytest

from moshgrid.compression import Float16, codec_names, get_codec, register_codec


def test_registry_names_what_there_is():
    assert codec_names()[:7] == ("none", "float16", "bfloat16", "int8", "int4", "uniform8", "quantile8")
    assert codec_names()[7:14] == tuple(f"spike{bits}" for bits in range(2, 9))
    assert get_codec("float16").name == "float16"
    with pytest.raises(KeyError, match="none, float16"):
        get_codec("gzip")
    with pytest.raises(ValueError, match="already"):
        register_codec(Float16())


def test_compression_does_not_load_torch():
    code = (
        "import sys, numpy as np, moshgrid.compression as c\n"
        "x = np.ones(5000, np.float32)\n"
        "[c.get_codec(n).decode(c.get_codec(n).encode(x).data, 5000, x.dtype) for n in c.codec_names()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Fixed vectors: the bytes of every codec are the same on every machine and in every version.

``vectors.json`` holds, per case, the values as hex of float32 and the bytes per codec; long ones as the
BLAKE3 of both. ``python tests/compression/test_vectors.py`` writes it anew: only for a new wire format.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from moshgrid.compression import codec_names, get_codec, kernels

FILE = Path(__file__).with_name("vectors.json")
NAMES = codec_names()[:14]
F32 = np.dtype(np.float32)


def noise(count, scale=1.0, seed=1):
    """The same everywhere: integers of a linear congruential generator, no floating-point functions."""
    state, found = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        found.append((state >> 40) - 2**23)
    return (np.array(found, np.float32) * np.float32(2.0**-21 * scale)).astype(np.float32)


CASES = {
    "empty": np.zeros(0, np.float32),
    "one": np.float32([-1.5]),
    "zeros": np.float32([0.0, -0.0] * 70),
    "constant": np.full(129, 0.1, np.float32),
    "edges": np.float32([65504, -65504, 65505, 1e30, 6.1e-5, 6e-8, 3e-8, 2.9e-8, 1e-45, -2049, 2049, 2051]),
    "noise": noise(300),
    "tiny": noise(200, 2.0**-22),
    "spikes": np.where(np.arange(300) % 97 == 5, np.float32(1000), noise(300)),
    "long": noise(5000),
}


def written():
    found = {}
    for case, values in CASES.items():
        short = values.size <= 300
        entry = found[case] = {"values": short_or_hash(values.astype("<f4").tobytes(), short)}
        for name in NAMES:
            entry[name] = short_or_hash(get_codec(name).encode(values).data, short)
    return found


def short_or_hash(data, short):
    return data.hex() if short else "blake3:" + blake3(data).hexdigest()


@pytest.mark.parametrize("by", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_bytes_are_as_written_down(case, by, monkeypatch):
    if by == "torch":
        pytest.importorskip("torch")
    monkeypatch.setattr(kernels, "_TORCH_FROM", 0 if by == "torch" else sys.maxsize)
    expected = json.loads(FILE.read_text())[case]
    values = CASES[case]
    short = values.size <= 300
    assert short_or_hash(values.astype("<f4").tobytes(), short) == expected["values"]
    for name in NAMES:
        data = get_codec(name).encode(values).data
        assert short_or_hash(data, short) == expected[name], name
        if short:
            back = get_codec(name).decode(bytes.fromhex(expected[name]), values.size, F32)
            assert back.size == values.size


if __name__ == "__main__":
    FILE.write_text(json.dumps(written(), indent=1) + "\n")

"""Codecs: encoding and decoding beside copying the same array, on one core, with torch's and numpy's kernels.

usage: python benchmarks/codecs.py [--megabytes 64] [--rounds 5] [--codecs int8,float16]
                                   [--kernels torch,numpy] [--json]

The array is cut into parts of at most 512 KiB encoded, as in a round. Speeds are gigabytes of float32 per
CPU second, the best of the rounds; torch works with one thread. The relative error is that of values drawn
from a normal distribution.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np

from moshgrid.compression import codec_names, get_codec

PART_BYTES = 512 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="codecs beside memcpy")
    parser.add_argument("--megabytes", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codecs", default=",".join(codec_names()))
    parser.add_argument("--kernels", default="torch,numpy")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--in-this-process", metavar="KERNELS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(measure(arguments)))
        return
    # A process for each: the kernels are torch's from when torch is imported.
    runs = [run(kernels) for kernels in arguments.kernels.split(",")]
    if arguments.json:
        print(
            json.dumps({"benchmark": "codecs", "megabytes": arguments.megabytes, "kernels": runs}, indent=2)
        )
        return
    for one in runs:
        print(f"{one['kernels']}: memcpy {one['memcpy']:.1f} GB/s")
        print(f"  {'codec':<10}{'encode':>8}{'decode':>8}  GB/s  {'÷ memcpy':>14}{'bits':>8}{'error':>10}")
        for row in one["codecs"]:
            ratios = f"{row['encode_to_memcpy']:.2f} / {row['decode_to_memcpy']:.2f}"
            print(
                f"  {row['codec']:<10}{row['encode']:8.2f}{row['decode']:8.2f}        {ratios:>14}"
                f"{row['bits_per_value']:8.3f}{row['relative_error']:10.1e}"
            )


def run(kernels: str) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--in-this-process", kernels]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def measure(arguments: argparse.Namespace) -> dict:
    if arguments.in_this_process == "torch":
        import torch

        torch.set_num_threads(1)
    values = np.random.default_rng(0).standard_normal(int(arguments.megabytes * 250_000), dtype=np.float32)
    out = np.empty_like(values)
    memcpy = speed(values, arguments.rounds, lambda: np.copyto(out, values))
    rows = [of(name, values, out, arguments.rounds, memcpy) for name in arguments.codecs.split(",")]
    return {"kernels": arguments.in_this_process, "memcpy": round(memcpy, 3), "codecs": rows}


def of(name: str, values: np.ndarray, out: np.ndarray, rounds: int, memcpy: float) -> dict:
    codec, size = get_codec(name), PART_BYTES
    while codec.encoded_bytes(size, values.dtype) > PART_BYTES:
        size //= 2
    parts = [slice(at, at + size) for at in range(0, values.size, size)]
    encoded = [b""] * len(parts)

    def encode() -> None:
        for index, part in enumerate(parts):
            encoded[index] = codec.encode(values[part]).data

    def decode() -> None:
        for part, data in zip(parts, encoded, strict=True):
            codec.decode_into(data, out[part])

    encoding, decoding = speed(values, rounds, encode), speed(values, rounds, decode)
    return {
        "codec": name,
        "encode": round(encoding, 3),
        "decode": round(decoding, 3),
        "encode_to_memcpy": round(encoding / memcpy, 3),
        "decode_to_memcpy": round(decoding / memcpy, 3),
        "bits_per_value": round(8 * sum(map(len, encoded)) / values.size, 4),
        "relative_error": float(np.linalg.norm(out - values) / np.linalg.norm(values)),
    }


def speed(values: np.ndarray, rounds: int, work) -> float:
    """Gigabytes of ``values`` per CPU second, in the best of some rounds."""
    work()
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return values.nbytes / max(best, 1e-9) / 1e9


if __name__ == "__main__":
    main()

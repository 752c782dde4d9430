"""What small codecs do to averages: by what is encoded, and by error feedback when members are absent.

usage: python benchmarks/codec_error.py [--codecs range8,int8] [--spreads 0.01]
           [--elements 8192] [--steps 1500] [--seeds 3] [--json]

First: 64 peers average in the rows and columns of an 8 × 8 grid; rms error to the true mean, and rms
disagreement, in units of the peers' spread around a common state of normal values. ``range8`` is the plain
block integer between smallest and largest. Second: ten peers minimise differing quadratics and are absent
with some probability; distance to the optimum, relative, mean of the seeds.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from codec_simulation import METHODS, MODES, distance_after, error_after

from moshgrid.compression import BlockInt, get_codec

CODECS = {
    codec.name: codec
    for codec in (
        BlockInt(8, spikes=False), BlockInt(4, spikes=False),
        *(get_codec(name) for name in ("float16", "int8", "int4", "spike4")),
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="errors of codecs in averages")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--spreads", default="0.1,0.01,0.001")
    parser.add_argument("--elements", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {
        "benchmark": "codec-error",
        "averages": averages(arguments),
        "feedback": feedback(arguments.steps, arguments.seeds),
    }
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'codec':<10}{'encoded':<12}{'spread':>8}{'error: 2 rounds':>17}{'12':>9}{'disagreement':>14}")
    for row in found["averages"]:
        print(
            f"{row['codec']:<10}{row['encoded']:<12}{row['spread']:8}{row['error_2']:17.4g}"
            f"{row['error_12']:9.3g}{row['disagreement_12']:14.1e}"
        )
    print(f"\n{'absent':>7}" + "".join(f"{method:>14}" for method in METHODS))
    for row in found["feedback"]:
        print(f"{row['absent']:7}" + "".join(f"{row['distance'][method]:14.4f}" for method in METHODS))


def averages(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    for codec in (CODECS[name] for name in arguments.codecs.split(",")):
        for mode in MODES:
            for spread in map(float, arguments.spreads.split(",")):
                errors = error_after(codec, mode, spread, (2, 12), arguments.elements)
                rows.append(
                    {
                        "codec": codec.name,
                        "encoded": mode,
                        "spread": spread,
                        "error_2": errors[2][0],
                        "error_12": errors[12][0],
                        "disagreement_12": errors[12][1],
                    }
                )
    return rows


def feedback(steps: int, seeds: int) -> list[dict]:
    return [
        {
            "absent": absent,
            "distance": {
                method: sum(distance_after(method, absent, steps, seed) for seed in range(seeds)) / seeds
                for method in METHODS
            },
        }
        for absent in (0.0, 0.05, 0.2)
    ]


if __name__ == "__main__":
    main()

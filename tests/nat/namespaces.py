"""Network namespaces of the lab: made under names that tell their owner, entered, emptied, removed."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PREFIX = "mgnat"
NAMED = Path("/run/netns")
INSTALL = "apt-get install nftables iproute2"
_ESTABLISHED = "01"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """A command that builds the lab failed; the text holds its words."""


def why_not() -> str | None:
    """Why no lab can be built here, and what would help; None when it can."""
    if not hasattr(os, "geteuid") or not Path("/proc/self/ns/net").exists():
        return "the NAT lab is made of Linux network namespaces: run these tests on Linux"
    if os.geteuid() != 0:
        return "the NAT lab makes network namespaces: run these tests as root"
    missing = [tool for tool in ("ip", "nft", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"the NAT lab needs {' and '.join(missing)}: {INSTALL} util-linux"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"this machine makes no network namespaces ({probe.stderr.strip()}): try another machine"
    return None


def command(argv: Sequence[str], text: str | None = None) -> str:
    """Output of a command. Raises LabError, with what it said, when it fails."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(argv)} ended with {done.returncode}: {said}\n{text or ''}")
    return done.stdout


class Namespace:
    """One network namespace. Its loopback is up, and it has no IPv6."""

    def __init__(self, name: str) -> None:
        self.name = name
        command(["ip", "netns", "add", name])
        self.ip("link set lo up")
        self.set("ipv6/conf/all/disable_ipv6", 1)

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` here."""
        command(["ip", "-n", self.name, "-batch", "-"], "\n".join(lines) + "\n")

    def nft(self, rules: str) -> None:
        """Load nftables rules here."""
        command([*self.entering(), "nft", "-f", "-"], rules)

    def nft_json(self, *words: str) -> str:
        """What nftables lists here, as JSON."""
        return command([*self.entering(), "nft", "-j", "list", *words])

    def set(self, setting: str, value: int) -> None:
        """Write a setting under /proc/sys/net, which shows that of the thread's namespace."""
        with self.entered():
            Path("/proc/sys/net", setting).write_text(str(value))

    def connections(self, six: bool = False) -> list[tuple[int, str, int]]:
        """Established TCP connections as the kernel lists them: own port, the other's address and port."""
        with self.entered():
            lines = Path(f"/proc/thread-self/net/tcp{'6' if six else ''}").read_text().splitlines()[1:]
        rows = [line.split()[1:4] for line in lines]
        ends = [(*_place(ours), *_place(theirs)) for ours, theirs, state in rows if state == _ESTABLISHED]
        return [(port, address, other) for _, port, address, other in ends]

    def entering(self) -> list[str]:
        """The words before a command that run it here, with the pid that starts it."""
        return ["nsenter", f"--net={NAMED / self.name}", "--"]

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here; options are Popen's."""
        return subprocess.Popen([*self.entering(), *argv], **options)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside meanwhile. A socket made inside stays inside for good."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            enter_for_good(self.name)
            try:
                yield
            finally:
                _set_namespace(back)
        finally:
            os.close(back)

    def remove(self) -> None:
        remove(self.name)


def _place(text: str) -> tuple[str, int]:
    """An address and a port as the kernel writes them: words of four bytes, the lowest first."""
    address, port = text.split(":")
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def enter_for_good(name: str) -> None:
    """Move the calling thread, and what it starts, to a namespace."""
    there = os.open(NAMED / name, os.O_RDONLY)
    try:
        _set_namespace(there)
    finally:
        os.close(there)


def own_prefix(number: int) -> str:
    """Names of this process's lab with this number begin so: pid and start time tell whose it is."""
    return f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{number}-"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def remove(name: str) -> None:
    """End the processes of a namespace of the lab, then remove it."""
    for pid in command(["ip", "netns", "pids", name]).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    command(["ip", "netns", "delete", name])


def remove_leftovers() -> list[str]:
    """Remove the namespaces of labs whose process is dead, and only those; their names."""
    removed = []
    for path in sorted(NAMED.glob(f"{PREFIX}-*")) if NAMED.exists() else []:
        _, pid, started, *_ = [*path.name.split("-"), "", "", ""]
        if pid.isdigit() and _started(int(pid)) != started:
            try:
                remove(path.name)
            except LabError:  # somebody else was faster
                continue
            removed.append(path.name)
    return removed

"""Nodes in processes of their own, over real sockets: some are killed, and the bootstrap comes back."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dht_peer import PeerProcess, kill_all

LOOPBACK = "/ip4/127.0.0.1/tcp/0"

Start = Callable[..., PeerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[PeerProcess] = []

    def start(name: str, *link: str, listen: str = LOOPBACK) -> PeerProcess:
        started.append(PeerProcess(listen, str(tmp_path / name), *link))
        return started[-1]

    yield start
    kill_all(started)


def free_port() -> int:
    """One that no outgoing connection is ever given: nobody may take it while its owner is away, not even
    a dial to it, which meets itself when it is given the very port that it dials."""
    for port in random.sample(range(10_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports were all taken")


def until(get: Callable[[], Any], wanted: Any, seconds: float = 60.0) -> None:
    """Asks again and again, as records and connections take their time after a failure."""
    ends = time.monotonic() + seconds
    while (found := get()) != wanted:
        assert time.monotonic() < ends, f"found {found}, wanted {wanted}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("size", "killed"), [(5, 2), pytest.param(16, 5, marks=pytest.mark.slow)], ids=["5", "16"]
)
def test_records_outlive_processes_that_are_killed(size: int, killed: int, start: Start) -> None:
    first = start("0")
    others = [start(str(number), first.link) for number in range(1, size)]
    everybody = [first, *others]
    others[0].ask("watch", "k")
    for number, peer in enumerate(everybody):
        until(lambda peer=peer, number=number: peer.ask("put", "k", number, 3) >= 3, True)  # type: ignore[misc]
        others[0].hears(number)
    for peer in everybody:
        until(lambda peer=peer: peer.ask("get_all", "k"), list(range(size)))  # type: ignore[misc]
    for peer in others[-killed:]:
        peer.kill()
    left = everybody[:-killed]
    for peer in left:
        assert peer.ask("get_all", "k") == list(range(size))
    left[-1].ask("put", "k", 100, 2)
    others[0].hears(100)
    late = start("late", first.link)
    until(lambda: late.ask("get_all", "k"), sorted([*set(range(size)) - {len(left) - 1}, 100]))


@pytest.mark.timeout(300)
def test_keeping_and_watching_outlive_a_restart_of_the_bootstrap(start: Start) -> None:
    listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
    bootstrap = start("bootstrap", listen=listen)
    link = bootstrap.link
    author, watcher = start("author", link), start("watcher", link)
    watcher.ask("watch", "k")
    author.ask("keep", "k", 1, 30)
    watcher.hears(1)
    bootstrap.kill()
    author.ask("update", "k", 2)
    watcher.hears(2)
    again = start("bootstrap", listen=listen)
    assert again.link == link
    until(lambda: again.ask("get", "k"), 2)  # they come back to it by themselves
    author.ask("update", "k", 3)
    watcher.hears(3)
    newcomer = start("newcomer", link)
    until(lambda: newcomer.ask("get", "k"), 3)
    newcomer.ask("watch", "k")
    newcomer.hears(3)
    author.ask("update", "k", 4)
    watcher.hears(4)
    newcomer.hears(4)
    newcomer.ask("put", "k", 5, 2)
    watcher.hears(5)
    assert author.ask("get_all", "k") == [4, 5]

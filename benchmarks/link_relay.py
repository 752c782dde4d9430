"""A relay in front of every peer, so that a link between two of them can be severed or a peer slowed down.

Used by ``faults.py``. Each peer listens on a port of its own and tells others the relay's. Who dialled is
found by the port it dialled from, in /proc: what goes by is encrypted. Linux only.
"""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

_CHUNK = 1 << 13
_BUFFER = 1 << 14  # a relay that holds megabytes back would be a link with seconds of delay


class Bucket:
    """Lets ``rate`` bytes a second through, shared by all who take from it; no limit while it is None."""

    def __init__(self):
        self.rate = None
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count):
        rate = self.rate
        if rate is None:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / rate
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class Relay:
    """The relays of all peers. ``owners()`` maps each peer to the pids that are its own."""

    def __init__(self, peers, owners):
        self._owners = owners
        self._listeners = [_small(socket.socket()) for _ in range(peers)]
        for listener in self._listeners:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
        self.ports = [listener.getsockname()[1] for listener in self._listeners]
        self.targets = [_free_port() for _ in range(peers)]
        self._up = [Bucket() for _ in range(peers)]
        self._down = [Bucket() for _ in range(peers)]
        self._severed = set()
        self._open = []
        self._lock = threading.Lock()
        for peer, listener in enumerate(self._listeners):
            threading.Thread(target=self._accept, args=(peer, listener), daemon=True).start()

    def slow(self, peer, rate):
        """From now on ``peer`` sends and receives ``rate`` bytes a second, each way; None ends it."""
        self._up[peer].rate = self._down[peer].rate = rate

    def sever(self, one, other):
        """Ends all connections between two peers and refuses new ones, until ``mend``."""
        with self._lock:
            self._severed.add(frozenset((one, other)))
            doomed = [pair for pair, ends in self._open if set(ends) == {one, other}]
        for pair in doomed:
            for end in pair:
                _shut(end)
        return len(doomed)

    def mend(self):
        """Ends every ``sever``."""
        with self._lock:
            self._severed.clear()

    def close(self):
        """Ends everything."""
        for listener in self._listeners:
            _shut(listener)
        for pair, _ in self._open:
            for end in pair:
                _shut(end)

    def _accept(self, peer, listener):
        with contextlib.suppress(OSError):
            while True:
                inbound, (_, port) = listener.accept()
                threading.Thread(target=self._join, args=(peer, inbound, port), daemon=True).start()

    def _join(self, peer, inbound, port):
        dialler = self._whose(port)
        with self._lock:
            refused = frozenset((peer, dialler)) in self._severed
        try:
            if refused:
                raise OSError("severed")
            outbound = _small(socket.socket())
            outbound.connect(("127.0.0.1", self.targets[peer]))
        except OSError:
            inbound.close()
            return
        with self._lock:
            self._open.append(((inbound, outbound), (peer, dialler)))
        for source, sink, sender, receiver in (
            (inbound, outbound, dialler, peer),
            (outbound, inbound, peer, dialler),
        ):
            buckets = [self._up[sender]] if sender is not None else []
            buckets += [self._down[receiver]] if receiver is not None else []
            threading.Thread(target=_pump, args=(source, sink, buckets), daemon=True).start()

    def _whose(self, port):
        """The peer that owns the socket with this local port; None for the one who looks on."""
        inodes = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
        for peer, pids in enumerate(self._owners()):
            for pid in pids:
                with contextlib.suppress(OSError):
                    for entry in os.scandir(f"/proc/{pid}/fd"):
                        with contextlib.suppress(OSError):
                            if os.readlink(entry.path) in inodes:
                                return peer
        return None


def _small(end):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return end


def _pump(source, sink, buckets):
    buffer = bytearray(_CHUNK)
    with contextlib.suppress(OSError):
        while count := source.recv_into(buffer):
            for bucket in buckets:
                bucket.take(count)
            sink.sendall(memoryview(buffer)[:count])
    _shut(source)
    _shut(sink)


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

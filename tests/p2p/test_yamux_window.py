"""The receive window grows when credit comes too late for the peer, and for no other reason."""

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW
from moshgrid.p2p.yamux_window import MAX_WINDOW, ReceiveWindow

RTT = 0.0002
ROOM = 64 * 1024 * 1024
CHUNK = 64 * 1024


def transfer(window, seconds, late, reading=0.0, pause=0.0, rtt=RTT):
    """A peer that sends all it may; credit reaches it ``late`` seconds after it was given.

    ``reading``: seconds that the reader takes for a chunk. ``pause``: seconds that the peer has nothing to
    send after each window's worth. Returns the bytes read.
    """
    now = read = 0
    allowed, waiting, sent = INITIAL_WINDOW, [], 0  # as the peer knows it
    while now < seconds:
        allowed += sum(grant for at, grant in waiting if at <= now)
        waiting = [(at, grant) for at, grant in waiting if at > now]
        if allowed < CHUNK:
            now = min(at for at, _ in waiting)
            continue
        burst = allowed if reading else CHUNK  # a slow reader finds all of it waiting
        allowed -= burst
        window.arrives(burst, now)
        for left in range(burst - CHUNK, -1, -CHUNK):
            now += 0.0001 + reading
            if grant := window.give_back(CHUNK, now, rtt, ROOM, left < CHUNK):
                waiting.append((now + late, grant))
            read += CHUNK
        sent += burst
        if pause and sent >= INITIAL_WINDOW:
            now, sent = now + pause, 0
    return read


def test_credit_that_is_late_because_the_computer_is_busy_grows_it():
    window = ReceiveWindow(0.0)
    read = transfer(window, 2.0, late=0.005)
    assert INITIAL_WINDOW < window.size < MAX_WINDOW, "it rests when it is large enough"
    assert read > 5 * 2.0 / 0.005 * INITIAL_WINDOW


def test_a_slow_reader_does_not_grow_it():
    window = ReceiveWindow(0.0)
    transfer(window, 5.0, late=0.0002, reading=0.01)
    assert window.size == INITIAL_WINDOW


def test_a_peer_that_has_nothing_to_send_does_not_grow_it():
    window = ReceiveWindow(0.0)
    transfer(window, 30.0, late=0.0002, pause=0.5)
    assert window.size == INITIAL_WINDOW


def test_a_long_path_grows_it_to_what_the_path_holds():
    window = ReceiveWindow(0.0)
    transfer(window, 10.0, late=0.1, rtt=0.1)
    assert window.size == MAX_WINDOW

"""Node and AsyncNode: what users hold in their hands."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import trio
import trio.testing

from moshgrid.p2p import (
    AsyncNode,
    Closed,
    ConfigurationError,
    Identity,
    Link,
    LocalProtocolError,
    Node,
    RemoteProtocolError,
)

LOCAL = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "moshgrid"] == []


async def connected_to(node, peer):
    # The addresses of a link are dialled in the background; dialling again waits for that.
    await node.host.network.dial(node.host.bootstrap[0])
    assert peer in node.host.network.connected()


def test_a_node_knows_itself_and_closes_twice():
    node = Node(listen=LOCAL)
    assert node.peer_id.startswith("12D3KooW")
    assert all(addr.endswith(f"/p2p/{node.peer_id}") for addr in node.addrs)
    assert node.network == "public"
    link = Link.parse(node.link)
    assert (link.network, link.run, link.bootstrap) == ("public", None, node.addrs)
    node.close()
    node.close()
    with pytest.raises(Closed):
        node.call(trio.sleep, 0)
    with pytest.raises(Closed):
        node.soon(trio.sleep, 0)
    with pytest.raises(Closed):
        _ = node.host


def test_the_default_listens_on_all_interfaces():
    with Node() as node:
        assert any(addr.startswith("/ip4/127.0.0.1/tcp/") for addr in node.addrs)
        assert "/tcp/0/" not in "".join(node.addrs)


def test_nodes_share_one_thread_and_join_through_a_link():
    with Node(listen=LOCAL, network="mine") as first:
        with Node.from_link(first.link, listen=LOCAL) as second:
            assert second.network == "mine"
            assert [thread.name for thread in threading.enumerate()].count("moshgrid") == 1
            second.call(connected_to, second, first.peer_id)
        assert first.call(_return, 5) == 5


async def _return(value):
    return value


def test_call_returns_raises_and_takes_keywords():
    async def fail(*, text):
        raise RemoteProtocolError("peer", text)

    with Node(listen=LOCAL) as node:
        assert node.call(_return, value=7) == 7
        with pytest.raises(RemoteProtocolError, match="no such thing"):
            node.call(fail, text="no such thing")
        assert node.soon(_return, 8).result(5) == 8


def test_a_soon_can_be_cancelled():
    cancelled = threading.Event()

    async def wait():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    with Node(listen=LOCAL) as node:
        future = node.soon(wait)
        node.call(trio.testing.wait_all_tasks_blocked)
        assert future.cancel()
        assert cancelled.wait(5)


def test_closing_ends_calls_of_other_threads():
    with Node(listen=LOCAL) as node:
        outcome, started = [], threading.Event()

        async def wait():
            started.set()
            await trio.sleep_forever()

        def call():
            try:
                node.call(wait)
            except Closed as error:
                outcome.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert started.wait(5)
        node.close()
        thread.join(5)
        assert len(outcome) == 1


def test_an_identity_is_kept_in_its_file(tmp_path):
    path = tmp_path / "id.pem"
    with Node(listen=LOCAL, identity=path) as node:
        peer = node.peer_id
    with Node(listen=LOCAL, identity=str(path)) as node:
        assert node.peer_id == peer
    identity = Identity.load_or_create(path)
    with Node(listen=LOCAL, identity=identity) as node:
        assert node.peer_id == peer == identity.peer_id


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"psk": "no-such-file"}, "psk= takes 32 bytes, the text of a key file, or the path of one"),
        ({"relay": "yes"}, "relay= takes True or False"),
        ({"use_relays": 3}, "use_relays= takes True, False or None"),
        ({"listen": ["/ip4/127.0.0.1/udp/1"]}, "allowed are"),
        ({"listen": 31337}, "listen= takes"),
        ({"listen": [31337]}, "listen= takes"),
        ({"listen": ["/ip4/203.0.113.250/tcp/0"]}, "cannot listen on"),
        ({"bootstrap": ["/ip4/127.0.0.1/tcp/1"]}, "form is"),
        ({"bootstrap": ["nonsense"]}, "form is"),
        ({"identity": 5}, "identity= takes"),
        ({"network": "a b"}, "network name"),
        ({"network": None}, "network= takes"),
    ],
)
def test_bad_arguments_are_explained(kwargs, text):
    with pytest.raises(ConfigurationError) as caught:
        Node(**{"listen": LOCAL, **kwargs})
    assert text in str(caught.value)


def test_a_bootstrap_that_is_down_is_no_error_but_is_told(caplog):
    gone = Identity.generate().peer_id
    with Node(listen=LOCAL, bootstrap=[f"/ip4/127.0.0.1/tcp/1/p2p/{gone}"]) as node:
        assert node.call(_return, 1) == 1
        deadline = time.monotonic() + 5
        while "refused the connection" not in caplog.text and time.monotonic() < deadline:
            node.call(trio.sleep, 0.01)
    assert "none of 1 bootstrap addresses answered" in caplog.text
    assert gone in caplog.text


def test_layers_are_closed_last_first_and_cannot_block_the_end():
    order = []

    class Layer:
        def __init__(self, name, fail=False, hang=False):
            self.name, self.fail, self.hang = name, fail, hang

        async def aclose(self):
            order.append(self.name)
            if self.hang:
                await trio.sleep_forever()
            if self.fail:
                raise ZeroDivisionError

    node = Node(listen=LOCAL)
    node.host.layers.update(
        dht=Layer("dht"), plain=object(), broken=Layer("broken", fail=True), stuck=Layer("stuck", hang=True)
    )
    start = time.monotonic()
    node.close()
    assert order == ["stuck", "broken", "dht"]
    assert time.monotonic() - start < 5


def test_a_stubborn_task_does_not_hold_up_closing(monkeypatch):
    monkeypatch.setattr("moshgrid.p2p.node_core._CLOSE_SECONDS", 0.3)

    async def stay():
        with trio.CancelScope(shield=True), trio.move_on_after(2.0):
            await trio.sleep_forever()

    node = Node(listen=LOCAL)
    node.call(_start, node, stay)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "moshgrid"]
    start = time.monotonic()
    node.close()
    assert time.monotonic() - start < 5
    thread.join(5)


async def _start(node, task):
    node.host.nursery.start_soon(task)


def test_blocking_inside_an_event_loop_is_refused():
    async def inside_asyncio():
        with pytest.raises(LocalProtocolError, match="AsyncNode"):
            Node(listen=LOCAL)
        with pytest.raises(LocalProtocolError, match="running asyncio event loop"):
            node.call(_return, 1)

    async def inside_trio():
        with pytest.raises(LocalProtocolError, match="running trio event loop"):
            node.call(_return, 1)

    with Node(listen=LOCAL) as node:
        asyncio.run(inside_asyncio())
        trio.run(inside_trio)
        node.call(inside_trio)


def test_ctrl_c_cancels_the_operation_and_leaves_nothing():
    script = Path(__file__).parent / "interrupted_call.py"
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert out.splitlines() == ["cancelled over there", "interrupted here", "closed True 1"]
    assert process.returncode == 0


def test_a_forgotten_node_does_not_keep_the_process():
    code = "from moshgrid.p2p import Node; node = Node(listen=['/ip4/127.0.0.1/tcp/0']); print(node.peer_id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told():
    code = """
import os, trio
from moshgrid.p2p import LocalProtocolError, Node
node = Node(listen=["/ip4/127.0.0.1/tcp/0"])
if os.fork() == 0:
    try:
        node.call(trio.sleep, 0)
    except LocalProtocolError as error:
        print("child:", "before a fork" in str(error), flush=True)
    node.close()
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as own:
        print("child:", own.call(trio.sleep, 0), flush=True)
    os._exit(0)
os.wait()
print("parent:", node.call(trio.sleep, 0), flush=True)
node.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines() == ["child: True", "child: None", "parent: None"], done.stderr


def test_importing_is_cheap_and_has_no_effect():
    code = (
        "import sys, threading, moshgrid.p2p; "
        "print(*[name in sys.modules for name in ('libp2p', 'torch', 'numpy')], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "False False False 1\n"


def test_a_missing_libp2p_says_what_to_install():
    code = """
import sys
sys.modules["libp2p"] = None
from moshgrid.p2p import ConfigurationError, Node
try:
    Node()
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "libgmp-dev" in done.stdout
    assert "build-essential" in done.stdout


@pytest.mark.asyncio
async def test_async_node():
    async with AsyncNode(listen=LOCAL, network="mine") as first:
        assert first.addrs[0].endswith(first.peer_id)
        second = await AsyncNode.from_link(first.link, listen=LOCAL)
        assert second.network == "mine"
        await asyncio.wait_for(second.call(connected_to, second, first.peer_id), 5)
        assert await second.call(_return, value=3) == 3
        assert await asyncio.wrap_future(second.soon(_return, 4)) == 4
        await second.close()
        await second.close()
        with pytest.raises(Closed):
            await second.call(_return, 1)


@pytest.mark.asyncio
async def test_async_node_needs_a_start_and_explains_bad_arguments():
    node = AsyncNode(listen=LOCAL)
    with pytest.raises(Closed, match="has not been started"):
        await node.call(_return, 1)
    with pytest.raises(ConfigurationError):
        AsyncNode(relay=None)
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        await AsyncNode(listen=["/ip4/203.0.113.250/tcp/0"])


@pytest.mark.asyncio
async def test_cancelling_an_async_call_cancels_the_work():
    started, cancelled = threading.Event(), threading.Event()

    async def wait():
        started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with AsyncNode(listen=LOCAL) as node:
        task = asyncio.create_task(node.call(wait))
        assert await asyncio.to_thread(started.wait, 5)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, CancelledError)):
            await task
        assert await asyncio.to_thread(cancelled.wait, 5)
        pending = asyncio.create_task(node.call(trio.sleep_forever))
        await node.call(_return, 1)
        await node.close()
        with pytest.raises(Closed):
            await pending

"""The handles that users hold, over real connections on this computer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from moshgrid.dht import DHT, AsyncDHT
from moshgrid.p2p import AsyncNode, ConfigurationError, LocalProtocolError, Node, RecordRejected, Unreachable

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def first() -> Iterator[Node]:
    with Node(LISTEN, network="my-tool") as node:
        DHT(node)
        yield node


def test_the_snippet_of_the_readme(first: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with DHT.join(first.link, listen=LISTEN) as dht:
        dht.put("services/gpu", {"vram": 24}, ttl=60)
        for record in dht.get_all("services/gpu").values():
            print(record.author, record.value, record.expires_in)
        author, *value, seconds = capsys.readouterr().out.split()
        assert author == dht.peer_id and " ".join(value) == "{'vram': 24}" and 55 < float(seconds) <= 60
        assert DHT(first).get("services/gpu").value == {"vram": 24}  # type: ignore[union-attr]


def test_put_get_delete(first: Node) -> None:
    one = DHT(first)
    with DHT.join(first.link, listen=LISTEN) as two:
        assert set(two.put("k", 1).stored_at) == {one.peer_id, two.peer_id}
        one.put("k", 2, suffix="s")
        assert {r.value for r in two.get_all("k").values()} == {1, 2}
        assert two.get_all("k")[f"{one.peer_id}/s"].value == 2
        assert one.get("k", author=two.peer_id).value == 1  # type: ignore[union-attr]
        two.delete("k")
        assert set(one.get_all("k")) == {f"{one.peer_id}/s"}
        assert one.get("missing") is None


def test_watch_iterates_until_it_is_closed(first: Node) -> None:
    one = DHT(first)
    one.put("k", "stored")
    seen: list[object] = []
    with DHT.join(first.link, listen=LISTEN) as two:
        watch = two.watch("k")
        assert next(watch).value == "stored"
        taken = threading.Event()

        def listen() -> None:
            for record in watch:
                seen.append(record.value)
                taken.set()

        thread = threading.Thread(target=listen)
        thread.start()
        one.put("k", "changed")
        assert taken.wait(5)
        watch.close()
        watch.close()
        thread.join(5)
        assert not thread.is_alive() and seen == ["changed"]
        assert list(watch) == []


def test_a_record_is_gone_everywhere_when_its_time_is_over(first: Node) -> None:
    one = DHT(first)
    with DHT.join(first.link, listen=LISTEN) as two:
        one.put("k", "short", ttl=1.5)
        record = two.get("k")
        assert record is not None and 0 < record.expires_in <= 1.5
        until = time.monotonic() + 20
        while two.get("k") is not None or one.get_all("k"):
            assert time.monotonic() < until
        assert record.expires_in == 0
        one.put("k", "again", ttl=60)
        assert two.get("k").value == "again"  # type: ignore[union-attr]


def test_a_kept_record_can_be_updated(first: Node) -> None:
    one = DHT(first)
    with DHT.join(first.link, listen=LISTEN) as two, two.keep("k", 1, ttl=30) as kept:
        assert one.get("k").value == 1  # type: ignore[union-attr]
        kept.update(2)
        assert one.get("k").value == 2  # type: ignore[union-attr]


def test_nobody_to_join_is_an_error_that_names_the_addresses() -> None:
    peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    with pytest.raises(Unreachable) as caught:
        DHT.join(f"moshgrid://my-tool@127.0.0.1:9/{peer}", listen=LISTEN, timeout=2)
    assert "the network 'my-tool' could not be reached" in str(caught.value)
    assert f"/ip4/127.0.0.1/tcp/9/p2p/{peer}" in str(caught.value)


def test_wrong_arguments_say_what_is_allowed(first: Node) -> None:
    dht = DHT(first)
    with pytest.raises(ConfigurationError, match="1 to 3600 seconds"):
        dht.put("k", 1, ttl=0.5)
    with pytest.raises(RecordRejected, match=r"TOO_LARGE.*Put a hash"):
        dht.put("k", "x" * 2000)
    with pytest.raises(ConfigurationError, match="cannot be stored"):
        dht.put("k", threading.Lock())


def test_a_blocking_call_inside_asyncio_names_the_twin(first: Node) -> None:
    dht = DHT(first)

    async def main() -> None:
        with pytest.raises(LocalProtocolError, match="AsyncDHT"):
            dht.get("k")

    asyncio.run(main())


@pytest.mark.asyncio
async def test_async_handles() -> None:
    async with AsyncNode(LISTEN, network="my-tool") as node, AsyncDHT(node) as one:
        async with AsyncDHT.join(node.link, listen=LISTEN) as two:
            await two.put("k", 1, ttl=60)
            record = await one.get("k")
            assert record is not None and (record.author, record.value) == (two.peer_id, 1)
            assert set(await one.get_all("k")) == {two.peer_id}
            async with await one.watch("k") as watch:
                seen = []
                async with await two.keep("k", 2, ttl=30) as kept:
                    await kept.update(3)
                await two.delete("k")
                async for record in watch:
                    seen.append(record.value)
                    if record.deleted:
                        break
                assert seen[0] == 1 and seen[-2:] == [3, None]
            assert await one.get("k") is None
        assert await one.get("k") is None


@pytest.mark.asyncio
async def test_async_watch_ends_when_closed_and_a_cancelled_read_harms_nothing() -> None:
    async with AsyncNode(LISTEN) as node, AsyncDHT(node) as dht:
        watch = await dht.watch("k")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)
        await dht.put("k", 1)
        assert (await anext(watch)).value == 1
        await watch.close()
        assert [record async for record in watch] == []


def test_the_layer_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, moshgrid.dht\n"
        "heavy = {'numpy', 'torch', 'moshgrid.averaging', 'moshgrid.compression'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Ports that routers forward: the packets, and routers that answer, refuse, lie, or say nothing."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.p2p.port_mapping import (
    Forwarding,
    ask_nat_pmp,
    ask_pcp,
    default_gateway,
    read_external_address,
    read_nat_pmp,
    read_pcp,
)
from moshgrid.p2p.port_mapping_client import PortMapping, ask_gateway, ask_upnp

PORT, OUTSIDE = 4001, "61.1.1.1"


def nat_pmp_answer(question: bytes, result: int = 0, host: str = OUTSIDE) -> bytes:
    if question[1] == 0:
        return struct.pack("!BBHI4s", 0, 128, result, 7, IPv4Address(host).packed)
    _, _, _, inside, outside, seconds = struct.unpack("!BBHHHI", question)
    return struct.pack("!BBHIHHI", 0, 130, result, 7, inside, outside + 1 if outside else 0, seconds)


def pcp_answer(question: bytes, result: int = 0, host: str = OUTSIDE) -> bytes:
    seconds = question[4:8]
    tail = question[24:42] + struct.pack("!H", 40211) + IPv6Address(f"::ffff:{host}").packed
    return bytes((2, 0x81, 0, result)) + seconds + bytes(16) + tail


class Router:
    """A gateway on loopback. ``speaks``: pcp, nat-pmp, refuses, or nothing."""

    def __init__(self, speaks: str, host: str = OUTSIDE) -> None:
        self.speaks, self.host = speaks, host
        self.leases: list[int] = []
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        await self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        task_status.started(self)
        while True:
            question, asker = await self.sock.recvfrom(2000)
            if question[0] == 2:
                self.leases.append(int.from_bytes(question[4:8], "big"))
            if self.speaks == "garbage":
                await self.sock.sendto(bytes(16), asker)
            elif self.speaks == "refuses":
                answer = (pcp_answer if question[0] == 2 else nat_pmp_answer)(question, 2)
                await self.sock.sendto(answer, asker)
            elif self.speaks == "pcp" and question[0] == 2:
                await self.sock.sendto(pcp_answer(question, host=self.host), asker)
            elif self.speaks == "nat-pmp":
                # A router that knows the older protocol only says so to the newer one.
                answer = (
                    bytes((0, 0x81, 0, 1)) if question[0] == 2 else nat_pmp_answer(question, host=self.host)
                )
                await self.sock.sendto(answer, asker)


@pytest.mark.parametrize(
    ("speaks", "granted"),
    [
        ("pcp", Forwarding(OUTSIDE, 40211, 3600, "PCP")),
        ("nat-pmp", Forwarding(OUTSIDE, PORT + 1, 3600, "NAT-PMP")),
        ("refuses", None),
        ("garbage", None),
        ("nothing", None),
    ],
)
def test_a_router_is_asked_in_both_languages_and_not_for_long(speaks, granted):
    async def main():
        async with trio.open_nursery() as nursery:
            router = await nursery.start(Router(speaks).run)
            with trio.fail_after(5):
                assert await ask_gateway("127.0.0.1", PORT, udp_port=router.port) == granted
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    ("host", "told"), [(OUTSIDE, [(OUTSIDE, 40211)]), ("100.64.7.7", []), ("10.0.0.1", [])]
)
def test_a_mapping_is_told_held_and_given_back_unless_the_router_is_at_home_itself(host, told):
    async def main():
        places = []
        async with trio.open_nursery() as nursery:
            router = await nursery.start(Router("pcp", host).run)
            mapping = PortMapping(PORT, places.append)
            async with trio.open_nursery() as holding:
                holding.start_soon(mapping.run, "127.0.0.1", router.port)
                with trio.fail_after(5):
                    while not router.leases or (told and not places):
                        await trio.testing.wait_all_tasks_blocked(0.01)
                holding.cancel_scope.cancel()
            with trio.fail_after(5):
                while told and router.leases[-1] != 0:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert places == told
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_nobody_listens_there():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert trio.run(ask_gateway, "127.0.0.1", PORT, 3600, port) is None


@given(st.binary(max_size=80))
def test_any_packet_is_an_answer_or_none(data):
    for answer in (read_nat_pmp(data, PORT), read_pcp(data, PORT, bytes(12))):
        assert answer is None or (answer.port and answer.seconds)
    read_external_address(data)


def test_answers_to_others_and_refusals_are_none():
    question = ask_pcp("192.168.1.2", PORT, bytes(12))
    assert len(question) == 60 and len(ask_nat_pmp(PORT)) == 12
    assert read_pcp(pcp_answer(question), PORT, bytes(12)) == Forwarding(OUTSIDE, 40211, 3600, "PCP")
    assert read_pcp(pcp_answer(question), PORT, b"x" * 12) is None
    assert read_pcp(pcp_answer(question), PORT + 1, bytes(12)) is None
    assert read_pcp(pcp_answer(question, result=8), PORT, bytes(12)) is None
    assert read_nat_pmp(nat_pmp_answer(ask_nat_pmp(PORT)), PORT + 1) is None
    assert read_nat_pmp(nat_pmp_answer(ask_nat_pmp(PORT), result=2), PORT) is None


def test_the_gateway_is_read_from_the_routing_table():
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\n"
    )
    assert default_gateway(table) == "192.168.1.1"
    assert default_gateway("") is None and default_gateway("a\nb c d\n" + "x 00000000 zz 0 0 0 0 0") is None


DESCRIPTION = """<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>/ctl</controlURL>
<eventSubURL>/evt</eventSubURL><SCPDURL>/scpd</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""


class Box(http.server.BaseHTTPRequestHandler):
    """A router that speaks UPnP."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._say(DESCRIPTION)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].strip('"').partition("#")[2]
        self.asked.append(body)
        inside = {
            "GetExternalIPAddress": f"<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>",
            "GetStatusInfo": "<NewConnectionStatus>Connected</NewConnectionStatus>"
            "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>9</NewUptime>",
        }.get(action, "")
        service = "urn:schemas-upnp-org:service:WANIPConnection:1"
        self._say(
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            f'<u:{action}Response xmlns:u="{service}">{inside}</u:{action}Response></s:Body></s:Envelope>'
        )

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def test_a_router_that_speaks_upnp_forwards_the_port():
    box = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Box)
    threading.Thread(target=box.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{box.server_address[1]}/description.xml"
        assert trio.run(ask_upnp, PORT, url) == Forwarding(OUTSIDE, PORT, 3600, "UPnP")
        assert any(f"<NewExternalPort>{PORT}</NewExternalPort>" in body for body in Box.asked)
    finally:
        box.shutdown()
        box.server_close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        gone = free.getsockname()[1]
    assert trio.run(ask_upnp, PORT, f"http://127.0.0.1:{gone}/description.xml") is None

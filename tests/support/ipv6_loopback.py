"""Whether this computer has an IPv6 loopback; tests that need one skip with the reason."""

from __future__ import annotations

import socket

import pytest


def skip_without_ipv6() -> None:
    """Ends the test here where nothing can listen on ``::1``."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback here")

"""What the demo can be asked for: its limits, and when the kills come."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.swarm.demo.settings import DemoSettings


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"peers": 3}, "--peers must be a whole number from 4 to 32, not 3"),
        ({"rounds": 5}, "--rounds must be a whole number from 6 to 1000, not 5"),
        ({"seed": -1}, "--seed must be a whole number from 0 to 2147483647, not -1"),
        ({"kill": 6}, "--kill must be a whole number from 0 to 5 with --peers 8 and --rounds 40, not 6"),
        ({"codec": "zip"}, "--codec must be one of none, float16, not 'zip'"),
        ({"out": Path(__file__)}, f"--out must be a folder or a new name, and {__file__} is a file"),
    ],
)
def test_a_bad_value_gets_one_line_that_says_what_is_allowed(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DemoSettings(**wrong)  # type: ignore[arg-type]
    assert str(caught.value) == text


@given(peers=st.integers(4, 32), rounds=st.integers(6, 1000), data=st.data())
def test_every_kill_has_a_round_of_its_own_within_the_run(
    peers: int, rounds: int, data: st.DataObject
) -> None:
    most = DemoSettings(peers=peers, rounds=rounds, kill=0).most_kills
    kill = data.draw(st.integers(0, most))
    when = DemoSettings(peers=peers, rounds=rounds, kill=kill).kill_rounds()
    assert len(set(when)) == kill
    assert all(1 < number < rounds for number in when)

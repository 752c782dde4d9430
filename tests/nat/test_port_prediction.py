"""Guessing the ports of symmetric routers: it works where they are handed out in order, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from namespaces import why_not
from port_prediction import measure

SCHEMA = Path(__file__).parents[2] / "docs/schemas/port-prediction.schema.json"


@pytest.mark.slow
def test_ports_in_order_can_be_guessed_and_random_ones_cannot() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    found = measure(2, windows=(16,), others=(0,), chance=False)
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    met = {(row["allocation"], row["partner"]): row["met"] for row in found["rows"]}
    print(met)
    assert met["sequential", "port"] and met["sequential", "sym"], found
    assert met["random", "port"] == met["random", "sym"] == 0, found

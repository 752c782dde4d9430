"""A lab for the tests of a module, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import Lab
from namespaces import why_not


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab() as made:
        yield made

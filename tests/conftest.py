"""Settings that hold for the whole suite."""

import pytest
from hypothesis import settings

# Time limits per example would fail on a loaded machine; the suite has its own timeout.
settings.register_profile("moshgrid", deadline=None)
settings.load_profile("moshgrid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked ``first`` comes first, so that it is over when the others are."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)

"""Settings that hold for the whole suite."""

from hypothesis import settings

# Time limits per example would fail on a loaded machine; the suite has its own timeout.
settings.register_profile("moshgrid", deadline=None)
settings.load_profile("moshgrid")

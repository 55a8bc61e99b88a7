"""What holds for the whole test run."""

from __future__ import annotations

from hypothesis import settings

# The same examples on every run and every machine: a red test is red for everybody.
settings.register_profile("forwarder", derandomize=True, deadline=None, database=None)
settings.load_profile("forwarder")

"""What holds for the whole test run."""

from __future__ import annotations

import pytest
from hypothesis import settings

from forwarder.store import opening

# The same examples on every run and every machine: a red test is red for everybody.
settings.register_profile("forwarder", derandomize=True, deadline=None, database=None)
settings.load_profile("forwarder")


@pytest.fixture(scope="session", autouse=True)
def _stored_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What an application under test remembers goes with the test run."""
    opening.BASE = tmp_path_factory.mktemp("store")

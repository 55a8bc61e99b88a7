"""Fixtures of the fake provider's own tests: an upstream and clients."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from openai import OpenAI

from tests.fake_provider import ScriptedUpstream


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    """A strict upstream."""
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def http() -> Iterator[httpx2.Client]:
    """A plain client, shared because creating one takes longer than most tests."""
    with httpx2.Client(timeout=10) as client:
        yield client


@pytest.fixture
def sdk(upstream: ScriptedUpstream, http: httpx2.Client) -> OpenAI:
    """The official SDK as a client of the upstream."""
    return OpenAI(base_url=upstream.url, api_key="sk-x", max_retries=0, http_client=http)

"""The demo behind the official SDK, as the forwarder uses it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import openai
import pytest

from forwarder.demo import DemoTransport


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(transport=DemoTransport(), base_url="http://demo.invalid/v1") as client:
        yield client


@pytest.fixture
def sdk(http: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(
        api_key="demo", base_url="http://demo.invalid/v1", http_client=http, max_retries=0
    )

"""Answers of the Messages API, compared with the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.openapi import Conformance, make_conformance

MESSAGES_CASES = [
    case_param
    for over in ("chat", "responses")
    for case_param in list_cases(f"messages_over_{over}")
]
POST = "POST /v1/messages"
BODY: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
    "thinking": {"type": "adaptive"},
}


@pytest.fixture
def conformance() -> Conformance:
    return make_conformance()


@pytest.fixture
def demo() -> FlaskClient:
    settings = Settings.from_env({"FORWARDER_DATABASE_URL": "none"})
    return create_app(settings).test_client()


def find_mistakes(conformance: Conformance, demo: FlaskClient, key: str, body: Any) -> list[str]:
    answer = demo.post(key.partition(" ")[2], json=body, buffered=True)
    return conformance.find_answer_mistakes(key, answer.status_code, answer.mimetype, answer.data)


@check_each("streamed", [False, True])
@check_each("upstream", ["chat", "responses"])
def test_answers_match_the_document(
    streamed: bool, upstream: str, conformance: Conformance, demo: FlaskClient
) -> None:
    body = {**BODY, "model": f"{upstream}/demo", "stream": streamed}

    assert find_mistakes(conformance, demo, POST, body) == []


def test_counts_and_errors_match_the_document(conformance: Conformance, demo: FlaskClient) -> None:
    assert find_mistakes(conformance, demo, f"{POST}/count_tokens", BODY) == []
    assert find_mistakes(conformance, demo, POST, {**BODY, "max_tokens": 0}) == []


@check_each("case", MESSAGES_CASES)
def test_requests_match_the_document(case: Case, conformance: Conformance) -> None:
    assert conformance.find_request_mistakes(POST, case.read("request.json")) == []

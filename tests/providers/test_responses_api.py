"""Adaptation of native Responses requests."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import adapt_request
from forwarder.providers.profile import Profile
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt

USER = {"role": "user", "content": "U"}


def test_items_encrypted_by_the_forwarder_are_dropped() -> None:
    upstream_item = {"type": "reasoning", "encrypted_content": "gAAAA"}
    forwarder_item = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert adapt({"input": [USER, forwarder_item, upstream_item]}, "responses") == {
        "input": [USER, upstream_item]
    }
    assert adapt({"input": "Hi."}, "responses") == {"input": "Hi."}


@check_each("role", ["developer", "system", "user"])
def test_responses_developer_role(role: str) -> None:
    body = {"input": [{"role": "developer", "content": "D"}, USER, "odd"]}
    adapted = adapt(body, "responses", responses_developer=role)["input"]
    assert adapted == [{"role": role, "content": "D"}, USER, "odd"]


@check_each("codex_models", [True, False])
def test_client_metadata_only_for_openai(codex_models: bool) -> None:
    body = {"input": "Hi.", "client_metadata": {"session_id": "s"}}
    loss_report = LossReport(strict=True)
    adapted = adapt_request(body, "responses", Profile("x", codex_models=codex_models), loss_report)
    assert adapted == (body if codex_models else {"input": "Hi."})
    assert loss_report.losses == {}


REASONING_ITEM: Json = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "t"}],
    "encrypted_content": "gAAAA",
}


def test_keep_reasoning_text() -> None:
    without_text = {k: v for k, v in REASONING_ITEM.items() if k != "content"}
    assert adapt({"input": [REASONING_ITEM]}, "responses") == {"input": [REASONING_ITEM]}
    assert adapt({"input": [REASONING_ITEM]}, "responses", keep_reasoning_text=False) == {
        "input": [without_text]
    }


REASONING_REQUEST: Json = {
    "input": "Hi.",
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
}


def test_adapt_reasoning_for_non_reasoning_model() -> None:
    reduced = {
        "input": "Hi.",
        "reasoning": {"effort": "low"},
        "include": ["web_search_call.action.sources"],
    }
    assert adapt(REASONING_REQUEST, "responses", reasons=False) == reduced
    assert adapt(REASONING_REQUEST, "responses", reasons=True) == REASONING_REQUEST
    assert adapt(REASONING_REQUEST, "responses") == REASONING_REQUEST
    summary_request = {
        "input": "Hi.",
        "reasoning": {"summary": "auto"},
        "include": REASONING_REQUEST["include"][:1],
    }
    assert adapt(summary_request, "responses", reasons=False) == {"input": "Hi."}
    loss_report = LossReport()
    adapt_request(REASONING_REQUEST, "responses", Profile("p", reasons=False), loss_report)
    assert list(loss_report.losses) == ["reasoning.summary", "include.reasoning.encrypted_content"]
    assert list_notes(reduced, reasons=False) == []  # a note, so strict requests pass


def test_summary_can_be_dropped_separately() -> None:
    without_summary = {**REASONING_REQUEST, "reasoning": {"effort": "low"}}
    assert (
        adapt(REASONING_REQUEST, "responses", drop=frozenset({"reasoning.summary"}))
        == without_summary
    )


def test_reasoning_items_drop() -> None:
    body = {"input": [USER, REASONING_ITEM]}
    assert adapt(body, "responses", reasoning_items="drop") == {"input": [USER]}


def test_dropped_reasoning_is_noted() -> None:
    forwarder_item = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert list_notes({"input": [USER, REASONING_ITEM, "odd"]}) == []
    assert list_notes({"input": [USER, forwarder_item]}) == ["input.reasoning"]
    assert list_notes({"input": [REASONING_ITEM]}, reasoning_items="drop") == ["input.reasoning"]
    assert list_notes({"input": [REASONING_ITEM]}, keep_reasoning_text=False) == [
        "input.reasoning.content"
    ]
    without_text = {**REASONING_ITEM, "content": []}
    assert list_notes({"input": [without_text]}, keep_reasoning_text=False) == []


def list_notes(body: Json, **fields: Any) -> list[str]:
    loss_report = LossReport(strict=True)
    adapt_request(body, "responses", Profile("p", **fields), loss_report)
    return [*loss_report.losses]


def test_dropped_logprobs_are_not_included() -> None:
    include = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    body = {"include": include, "top_logprobs": 2}
    drop = frozenset({"logprobs", "top_logprobs"})
    assert adapt(body, "responses") == body
    assert adapt(body, "responses", drop=drop) == {"include": include[:1]}
    assert adapt({"include": "odd"}, "responses", drop=drop) == {"include": "odd"}
    assert body["include"] == include


def test_responses_system_role() -> None:
    """ChatGPT's backend refuses the system role."""
    body = {"input": [{"role": "system", "content": "S"}, USER]}
    for role in ("developer", "system"):
        adapted = adapt(body, "responses", responses_system=role)["input"]
        assert adapted == [{"role": role, "content": "S"}, USER]

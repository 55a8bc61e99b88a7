"""Efforts and switches."""

from __future__ import annotations

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from tests.providers.mending import Json, mended


def template(on: bool) -> Json:
    return {"chat_template_kwargs": {"enable_thinking": on}}


@pytest.mark.parametrize(
    ("switch", "high", "none"),
    [
        ("effort", {"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
        ("enable_thinking", {"enable_thinking": True}, {"enable_thinking": False}),
        ("thinking", {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
        (
            "thinking_effort",
            {"thinking": {"type": "enabled"}, "reasoning_effort": "high"},
            {"thinking": {"type": "disabled"}, "reasoning_effort": "none"},
        ),
        ("reasoning", {"reasoning": {"effort": "high"}}, {"reasoning": {"effort": "none"}}),
        ("template", template(True), template(False)),
    ],
)
def test_thinking_is_switched_as_the_provider_knows_it(switch: str, high: Json, none: Json) -> None:
    assert mended({"reasoning_effort": "high"}, thinking_switch=switch) == high
    assert mended({"reasoning_effort": "none"}, thinking_switch=switch) == none
    assert mended({}, thinking_switch=switch) == {}
    assert mended({"reasoning_effort": None}, thinking_switch="thinking") == {
        "reasoning_effort": None
    }


def test_efforts_are_said_in_the_providers_words() -> None:
    words = {"xhigh": "max", "none": None}
    assert mended({"reasoning_effort": "xhigh"}, effort_map=words) == {"reasoning_effort": "max"}
    assert mended({"reasoning_effort": "low"}, effort_map=words) == {"reasoning_effort": "low"}
    ledger = LossReport()
    assert mended({"reasoning_effort": "none"}, ledger=ledger, effort_map=words) == {}
    assert ledger.losses.keys() == {"reasoning_effort"}
    body = {"reasoning": {"effort": "xhigh", "summary": "auto"}}
    assert mended(body, "responses", effort_map=words)["reasoning"]["effort"] == "max"
    body = {"reasoning": {"effort": "none"}}
    assert mended(body, "responses", effort_map=words) == {"reasoning": {}}


def test_what_the_client_says_in_the_providers_own_words_goes_first() -> None:
    body = {"reasoning_effort": "high", "enable_thinking": False, **template(False)}
    assert mended(body, thinking_switch="enable_thinking")["enable_thinking"] is False
    assert mended(body, thinking_switch="template")["chat_template_kwargs"] == {
        "enable_thinking": False
    }


def test_an_effort_is_a_word() -> None:
    with pytest.raises(InvalidRequest):
        mended({"reasoning_effort": 3}, thinking_switch="thinking")

"""Reasoning efforts and thinking switches."""

from __future__ import annotations

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt


def make_template_options(on: bool) -> Json:
    return {"chat_template_kwargs": {"enable_thinking": on}}


@check_each(
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
        ("template", make_template_options(True), make_template_options(False)),
    ],
)
def test_apply_thinking_switch(switch: str, high: Json, none: Json) -> None:
    assert adapt({"reasoning_effort": "high"}, thinking_switch=switch) == high
    assert adapt({"reasoning_effort": "none"}, thinking_switch=switch) == none
    assert adapt({}, thinking_switch=switch) == {}
    assert adapt({"reasoning_effort": None}, thinking_switch="thinking") == {
        "reasoning_effort": None
    }


def test_effort_map() -> None:
    words = {"xhigh": "max", "none": None}
    assert adapt({"reasoning_effort": "xhigh"}, effort_map=words) == {"reasoning_effort": "max"}
    assert adapt({"reasoning_effort": "low"}, effort_map=words) == {"reasoning_effort": "low"}
    loss_report = LossReport()
    assert adapt({"reasoning_effort": "none"}, loss_report=loss_report, effort_map=words) == {}
    assert loss_report.losses.keys() == {"reasoning_effort"}
    body = {"reasoning": {"effort": "xhigh", "summary": "auto"}}
    assert adapt(body, "responses", effort_map=words)["reasoning"]["effort"] == "max"
    for more, left in (({}, {}), ({"summary": "auto"}, {"reasoning": {"summary": "auto"}})):
        body = {"reasoning": {"effort": "none", **more}}
        loss_report = LossReport()
        adapted = adapt(body, "responses", loss_report=loss_report, effort_map=words)
        assert adapted == left
        assert loss_report.losses == {"reasoning.effort": "some has no effort 'none'"}


def test_client_value_overrides_thinking_switch() -> None:
    body = {"reasoning_effort": "high", "enable_thinking": False, **make_template_options(False)}
    assert adapt(body, thinking_switch="enable_thinking")["enable_thinking"] is False
    assert adapt(body, thinking_switch="template")["chat_template_kwargs"] == {
        "enable_thinking": False
    }


def test_effort_must_be_text() -> None:
    with pytest.raises(InvalidRequest):
        adapt({"reasoning_effort": 3}, thinking_switch="thinking")

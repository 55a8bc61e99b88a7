from __future__ import annotations

from typing import Any

from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton
from tests.helpers import sdk

Json = dict[str, Any]

MINIMAL: Json = {"model": "m", "input": "Hi."}


def test_skeleton_has_all_required_fields() -> None:
    response = make_response_skeleton(MINIMAL, "resp_1", 7)
    assert sdk.response_mistakes(response) == []
    assert (response["id"], response["created_at"], response["model"]) == ("resp_1", 7, "m")
    assert (response["status"], response["output"], response["usage"]) == ("in_progress", [], None)
    assert (response["tool_choice"], response["tools"]) == ("auto", [])
    assert response["text"] == {"format": {"type": "text"}}
    assert (response["frequency_penalty"], response["presence_penalty"]) == (0, 0)
    assert (response["temperature"], response["top_p"], response["top_logprobs"]) == (1.0, 1.0, 0)
    assert response["reasoning"] == {"effort": None, "summary": None}
    assert "input" not in response


def test_skeleton_echoes_the_request() -> None:
    request: Json = {
        **MINIMAL,
        "instructions": "Be brief.",
        "temperature": 0,
        "top_p": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "text": {"format": None, "verbosity": "low"},
        "tool_choice": "required",
        "tools": [{"type": "function", "name": "f"}, {"type": "apply_patch"}],
        "truncation": "auto",
        "unheard_of": 1,
    }
    response = make_response_skeleton(request, "resp_1", 7)
    assert sdk.response_mistakes(response) == []
    echoed = (
        "instructions",
        "temperature",
        "metadata",
        "parallel_tool_calls",
        "tool_choice",
        "truncation",
    )
    assert {name: response[name] for name in echoed} == {name: request[name] for name in echoed}
    assert response["top_p"] == 1.0
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["tools"][1] == {"type": "apply_patch"}
    assert response["tools"][0]["parameters"] is None
    assert "unheard_of" not in response


def test_skeletons_share_no_state() -> None:
    make_response_skeleton(MINIMAL, "resp_1", 7)["metadata"]["a"] = "b"
    assert make_response_skeleton(MINIMAL, "resp_2", 7)["metadata"] == {}

"""The checks of both protocols."""

from __future__ import annotations

from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from tests.fake_provider import Violation, check_chat, check_responses

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES = {"model": "m", "input": "hi"}


def test_every_parameter_of_the_sdk_is_known() -> None:
    """A wrong value may be refused, but not the name."""
    for name in CompletionCreateParamsBase.__annotations__:
        assert f"Unknown parameter: '{name}'." not in check_chat({**CHAT, name: 1})
    for name in ResponseCreateParamsBase.__annotations__:
        assert f"Unknown parameter: '{name}'." not in check_responses({**RESPONSES, name: 1})


def test_each_protocol_refuses_the_other_s_body() -> None:
    assert check_chat(RESPONSES)
    assert check_responses(CHAT)


def test_a_violation_is_a_text_with_a_param_and_a_code() -> None:
    violation = check_chat({**CHAT, "nonsense": 1})[0]

    assert isinstance(violation, Violation)
    assert violation == "Unknown parameter: 'nonsense'."
    assert (violation.param, violation.code) == ("nonsense", "unknown_parameter")

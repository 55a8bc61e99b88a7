"""Default parameters and system prompt of a model."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Json
from forwarder.protocols.model_defaults import (
    MODEL_PARAMETERS,
    NO_DEFAULTS,
    ModelDefaults,
    validate_model_parameters,
)
from tests.helpers.check_cases import check_each

ALL: Json = {
    "temperature": 0.5, "top_p": 0.9, "num_predict": 50, "stop": ["END"], "seed": 7,
    "frequency_penalty": 0.1, "presence_penalty": 0.2, "repeat_penalty": 1.1, "top_k": 40,
    "min_p": 0.05, "num_ctx": 8192,
}  # fmt: skip


def collect_added_fields(
    defaults: ModelDefaults, protocol: str, request: Json, for_client: bool = True
) -> Json:
    """Return the fields that the defaults add to a request."""
    requests: list[Json] = []

    def handler(changed_request: Json) -> EventStream:
        requests.append(changed_request)
        return iter(())

    wrapped_handler = (
        defaults.with_client_defaults if for_client else defaults.with_upstream_defaults
    )(handler, protocol)
    before = repr(request)
    list(wrapped_handler(request))
    assert repr(request) == before, "the request itself is not modified"
    return {k: v for k, v in requests[0].items() if k not in request or v != request[k]}


def test_every_model_parameter_is_covered() -> None:
    assert ALL.keys() == MODEL_PARAMETERS.keys()


@check_each(
    ("protocol", "for_client", "added"),
    [
        ("chat", True, {"temperature": 0.5, "top_p": 0.9, "max_tokens": 50, "stop": ["END"]}),
        (
            "chat",
            False,
            {
                "temperature": 0.5, "top_p": 0.9, "max_tokens": 50, "stop": ["END"], "seed": 7,
                "frequency_penalty": 0.1, "presence_penalty": 0.2,
            },
        ),
        ("responses", True, {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 50}),
        ("responses", False, {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 50}),
    ],
)  # fmt: skip
def test_defaults_by_protocol(protocol: str, for_client: bool, added: Json) -> None:
    assert (
        collect_added_fields(ModelDefaults(ALL), protocol, {"temperature": None}, for_client)
        == added
    )


@check_each("spelling", ["repetition_penalty", "repeat_penalty"])
@check_each("protocol", ["chat", "responses"])
def test_defaults_beyond_the_protocol(protocol: str, spelling: str) -> None:
    defaults = ModelDefaults({"repeat_penalty": 1.1, "top_k": 40, "min_p": 0.05, "seed": 7})
    takes = {"top_k", "seed", spelling}

    requests: list[Json] = []
    list(
        defaults.with_upstream_defaults(lambda r: iter(requests.append(r) or ()), protocol, takes)(
            {"top_k": 1}
        )
    )

    assert requests == [{"top_k": 1, "seed": 7, spelling: 1.1}]


@check_each("protocol", ["chat", "responses"])
def test_defaults_skip_dropped_parameters(protocol: str) -> None:
    def handler(request: Json) -> EventStream:
        return iter(())

    drops = {"temperature", "seed", "top_k"}
    defaults = ModelDefaults({"temperature": 0.5, "seed": 7, "top_k": 40})
    assert defaults.with_client_defaults(handler, protocol, drops) is handler
    assert defaults.with_upstream_defaults(handler, protocol, {"top_k"}, drops) is handler


def test_client_value_overrides_default_under_any_name() -> None:
    request = {"temperature": 0, "top_p": 1.0, "max_completion_tokens": 5, "stop": "x"}

    assert collect_added_fields(ModelDefaults(ALL), "chat", request) == {}


def test_num_predict_limits() -> None:
    assert collect_added_fields(ModelDefaults({"num_predict": -1}), "chat", {}) == {}
    assert collect_added_fields(ModelDefaults({"num_predict": 3}), "chat", {}) == {"max_tokens": 3}
    assert collect_added_fields(ModelDefaults({"num_predict": 3}), "responses", {}) == {
        "max_output_tokens": 16
    }


USER = {"role": "user", "content": "hi"}
SYSTEM = ModelDefaults(system="Be kind.")


def test_system_prompt_is_first() -> None:
    added = collect_added_fields(SYSTEM, "chat", {"messages": [USER]})
    assert added == {"messages": [{"role": "system", "content": "Be kind."}, USER]}
    for input_value in ("hi", [USER]):
        assert collect_added_fields(SYSTEM, "responses", {"input": input_value}) == {
            "instructions": "Be kind."
        }


@check_each("role", ["system", "developer"])
def test_client_instructions_replace_system_prompt(role: str) -> None:
    instruction = {"role": role, "content": "Be brief."}

    assert collect_added_fields(SYSTEM, "chat", {"messages": [USER, instruction]}) == {}
    assert collect_added_fields(SYSTEM, "responses", {"input": [instruction, USER]}) == {}
    assert (
        collect_added_fields(SYSTEM, "responses", {"input": "hi", "instructions": "Be brief."})
        == {}
    )


def test_upstream_defaults_have_no_system_prompt() -> None:
    assert collect_added_fields(SYSTEM, "chat", {"messages": [USER]}, for_client=False) == {}


def test_invalid_messages_are_left_to_the_translator() -> None:
    assert collect_added_fields(SYSTEM, "chat", {"messages": "hi"}) == {}


def test_no_defaults_return_the_same_handler() -> None:
    def handler(request: Json) -> EventStream:
        return iter(())

    assert (
        NO_DEFAULTS.with_client_defaults(handler, "chat")
        is handler
        is NO_DEFAULTS.with_upstream_defaults(handler, "responses")
    )
    assert ModelDefaults(ALL).with_client_defaults(handler, "ollama") is handler


def test_valid_model_parameters() -> None:
    assert validate_model_parameters({**ALL, "top_k": None}) == {
        k: v for k, v in ALL.items() if k != "top_k"
    }


@check_each(
    ("name", "value"),
    [
        ("temperature", 2.1), ("temperature", "0.5"), ("temperature", True),
        ("top_p", float("nan")), ("num_ctx", 0), ("num_ctx", 2.0), ("num_predict", 0),
        ("num_predict", -3), ("stop", []), ("stop", [""]), ("stop", 3), ("seed", 1.5),
        ("num_gpu", 1), ("mirostat", 1),
    ],
)  # fmt: skip
def test_invalid_model_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"parameters.{name}") as caught:
        validate_model_parameters({name: value})
    assert caught.value.param == f"parameters.{name}"

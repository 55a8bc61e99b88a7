"""Quirks inferred from refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forwarder.core.error_classification import MAX_SEARCHED_CHARACTERS
from forwarder.core.errors import UpstreamRefused
from forwarder.providers import PASSTHROUGH_PROFILE, PROFILES, Profile
from forwarder.providers.learn import InferredQuirk, infer_quirk
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

GENERIC = PROFILES["generic"]
USER = {"role": "user", "content": "U"}
DEVELOPER = {"role": "developer", "content": "D"}
LOOK = {"type": "function", "function": {"name": "look"}}
FORCED = {"messages": [USER], "tools": [LOOK], "tool_choice": "required"}
SCHEMA = {"messages": [USER], "response_format": {"type": "json_schema"}}


def infer_changes(
    message: str,
    body: Json,
    profile: Profile = PASSTHROUGH_PROFILE,
    *,
    param: str | None = None,
    protocol: str = "chat",
    status: int = 400,
) -> Json | None:
    """Return the profile changes inferred from a refusal."""
    refusal = UpstreamRefused(status, {"message": message, "param": param})
    quirk = infer_quirk(refusal, protocol, {"model": "m", **body}, profile)
    return dict(quirk.changes) if quirk else None


THINKING = "The tool_choice parameter does not support being set to required in thinking mode"
EFFORT = (
    "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. "
    "Supported values are: 'low', 'medium', and 'high'."
)

REFUSALS_AND_CHANGES: list[tuple[str, Json, Json]] = [
    ("unknown variant `developer`", {"messages": [DEVELOPER]}, {"developer_role": "system"}),
    (
        "Unknown parameter: 'messages[1].tool_calls[0].extra_content'.",
        {"messages": [USER]},
        {"extra_message_fields": False},
    ),
    ("System role not supported", {"messages": [{"role": "system"}]}, {"developer_role": "user"}),
    ("System message must be at the beginning.", {"messages": []}, {"system_at_head": True}),
    ("roles must alternate user/assistant", {"messages": []}, {"merge_neighbours": True}),
    ("Unknown parameter: 'metadata'", {"metadata": {}}, {"drop": frozenset({"metadata"})}),
    (
        "[{'loc': ['body', 'user'], 'msg': 'Extra inputs are not permitted'},"
        " {'loc': ['body', 'seed']}]",
        {"user": "u", "seed": 1},
        {"drop": frozenset({"user", "seed"})},
    ),
    (
        "Unsupported parameter: 'max_tokens'",
        {"max_tokens": 1},
        {"max_tokens": "max_completion_tokens"},
    ),
    (
        "Unsupported parameter: 'max_completion_tokens'",
        {"max_completion_tokens": 1},
        {"max_tokens": "max_tokens"},
    ),
    ("Unknown parameter: 'stream_options'", {"stream_options": {}}, {"stream_options": False}),
    (
        "Unsupported parameter: 'parallel_tool_calls'",
        {"parallel_tool_calls": True},
        {"parallel_tool_calls": False},
    ),
    (THINKING, FORCED, {"forced_tool_choice": "auto"}),
    ("Unsupported parameter: 'tool_choice'", FORCED, {"drop": frozenset({"tool_choice"})}),
    ("This response_format type is unavailable now", SCHEMA, {"response_format": "json_object"}),
    (
        "response_format type json_object is not supported",
        {"response_format": {"type": "json_object"}},
        {"response_format": "none"},
    ),
    (
        "reasoning_content is missing in assistant tool call message at index 2",
        {"messages": []},
        {
            "reasoning_replay": "tool_turns",
            "reasoning_field": "reasoning_content",
            "reasoning_placeholder": " ",
        },
    ),
    (
        "This model only support stream mode, please enable the stream parameter to access the"
        " model. ",
        {"stream": False},
        {"always_stream": True},
    ),
    ("Stream must be set to true", {"stream": False}, {"always_stream": True}),
    ("not a valid moonshot flavored json schema", {}, {"schema_dialect": "moonshot"}),
    ("Invalid schema for function 'f': $ref", {}, {"schema_dialect": "plain"}),
    (EFFORT, {"reasoning_effort": "minimal"}, {"effort_map": {"minimal": "low"}}),
    (
        "Unsupported parameter: 'reasoning_effort'",
        {"reasoning_effort": "low"},
        {"drop": frozenset({"reasoning_effort"})},
    ),
]


@check_each(("message", "body", "changes"), REFUSALS_AND_CHANGES)
def test_infer_quirk_from_chat_refusal(message: str, body: Json, changes: Json) -> None:
    assert infer_changes(message, body) == changes
    assert infer_changes(message, body, status=422) == changes


@check_each(("message", "body", "changes"), REFUSALS_AND_CHANGES)
def test_infer_quirk_returns_none_for_known_quirk(message: str, body: Json, changes: Json) -> None:
    learned_profile = replace(PASSTHROUGH_PROFILE, **changes)
    assert infer_changes(message, body, learned_profile) in (
        None,
        {"drop": frozenset({"tool_choice"})},
    )


@check_each(
    ("param", "changes"),
    [
        ("messages[1].reasoning_content", {"reasoning_replay": "none"}),
        ("messages[1].annotations", {"extra_message_fields": False}),
        ("tools[0].function.strict", {"strict_tools": False}),
        ("tools[0].function.parameters.additionalProperties", {"schema_dialect": "mistral"}),
    ],
)
def test_infer_quirk_from_nested_parameter(param: str, changes: Json) -> None:
    assert infer_changes("This property is unsupported", {"messages": []}, param=param) == changes


def test_forced_tool_choice_first_disables_thinking() -> None:
    profile = replace(GENERIC, thinking_switch="enable_thinking")
    first_changes = infer_changes(THINKING, FORCED, profile)
    assert first_changes == {"forced_tool_choice": "disable_thinking"}
    assert infer_changes(THINKING, FORCED, replace(profile, **first_changes)) == {
        "forced_tool_choice": "auto"
    }


@check_each(
    ("message", "body", "changes"),
    [
        ("unknown variant `developer`", {"input": [DEVELOPER]}, {"responses_developer": "system"}),
        ("The reasoning_text must be passed back", {}, None),
        (
            "Invalid 'input[1].content': array too long. Expected maximum length 0",
            {},
            {"keep_reasoning_text": False},
        ),
        ("Unknown parameter: 'verbosity'", {}, None),
        ("Unsupported parameter: 'top_p'", {"top_p": 1}, {"drop": frozenset({"top_p"})}),
    ],
)
def test_infer_quirk_from_responses_refusal(message: str, body: Json, changes: Json | None) -> None:
    assert infer_changes(message, body, GENERIC, protocol="responses") == changes


REQUEST_WITH_ENCRYPTED = {"include": ["reasoning.encrypted_content"]}
REQUEST_WITH_SUMMARY = {"reasoning": {"summary": "auto"}}
VERIFY = (
    "Your organization must be verified to generate reasoning summaries. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization."
)


@check_each(
    ("message", "param", "body", "changes"),
    [
        ("Encrypted content is not supported with this model.", "include", REQUEST_WITH_ENCRYPTED,
         {"reasons": False}),
        ("Encrypted content is not supported with this model.", None, REQUEST_WITH_ENCRYPTED, {"reasons": False}),
        ("Invalid value: 'reasoning.encrypted_content'. Supported values are: "
         "'file_search_call.results', and 'message.input_image.image_url'.", "include[0]", REQUEST_WITH_ENCRYPTED,
         {"reasons": False}),
        ("Unknown parameter: 'include'.", "include", REQUEST_WITH_ENCRYPTED, {"reasons": False}),
        ("Unsupported parameter: 'reasoning.summary' is not supported with this model.",
         "reasoning.summary", {**REQUEST_WITH_SUMMARY, **REQUEST_WITH_ENCRYPTED}, {"reasons": False}),
        ("Unknown parameter: 'reasoning'.", "reasoning", REQUEST_WITH_SUMMARY, {"reasons": False}),
        ("[{'type': 'extra_forbidden', 'loc': ['body', 'reasoning']}]", None, REQUEST_WITH_SUMMARY,
         {"reasons": False}),
        ("Unknown parameter: 'reasoning'.", None,
         {"reasoning": {"effort": "low", "summary": "auto"}},
         {"reasons": False, "drop": frozenset({"reasoning"})}),
        ("[{'loc': ['body', 'user']}, {'loc': ['body', 'reasoning']}]; extra_forbidden", None,
         {"user": "u", "reasoning": {"effort": "low"}},
         {"reasons": False, "drop": frozenset({"user", "reasoning"})}),
        (VERIFY, "reasoning.summary", REQUEST_WITH_SUMMARY, {"drop": frozenset({"reasoning.summary"})}),
        ("Unsupported value: 'auto' is not supported with the 'computer-use-preview' model. "
         "Supported values are: 'concise'.", "reasoning.summary", REQUEST_WITH_SUMMARY,
         {"drop": frozenset({"reasoning.summary"})}),
        ("Unsupported parameter: 'temperature' is not supported with this model.", "temperature",
         {"temperature": 0.5}, {"reasons": True, "drop": frozenset({"temperature"})}),
    ],
)  # fmt: skip
def test_infer_reasons_from_refusal(
    message: str, param: str | None, body: Json, changes: Json
) -> None:
    assert infer_changes(message, body, GENERIC, param=param, protocol="responses") == changes
    learned_profile = replace(GENERIC, **changes)
    assert infer_changes(message, body, learned_profile, param=param, protocol="responses") is None


@check_each("body", [{}, {"include": []}, {"reasoning": {"effort": "low"}}])
def test_no_quirk_without_request_for_encrypted_reasoning(body: Json) -> None:
    message = "Encrypted content is not supported with this model."
    assert infer_changes(message, body, GENERIC, param="include", protocol="responses") is None


def test_foreign_reasoning_does_not_change_reasons() -> None:
    message = "The encrypted content gAAA could not be verified. Reason: it could not be decrypted."
    changes = infer_changes(message, REQUEST_WITH_ENCRYPTED, GENERIC, protocol="responses")
    assert changes == {"reasoning_items": "drop"}


@check_each("body", [{"stream": True}, {"input": []}, {"stream": False, "stream_options": {}}])
def test_always_stream_only_from_request_without_streaming(body: Json) -> None:
    message = "The 'stream_options' parameter must be used with stream=true; stream must be true."
    assert infer_changes(message, body) is None


def test_foreign_reasoning_quirk_is_temporary() -> None:
    refusal = UpstreamRefused(400, {"message": "Encrypted content could not be verified"})
    quirk = infer_quirk(refusal, "responses", {"input": []}, GENERIC)
    assert quirk is not None
    assert quirk.changes == {"reasoning_items": "drop"}
    assert not quirk.is_lasting


@check_each("name", ["model", "messages", "tools", "stop", "n", "stream", "response_format"])
def test_essential_parameters_are_never_dropped(name: str) -> None:
    assert (
        infer_changes(
            f"Unsupported parameter: '{name}'", {name: "x"} if name != "response_format" else {}
        )
        is None
    )


@check_each("status", [401, 404, 429, 500])
def test_only_request_errors_change_the_profile(status: int) -> None:
    assert infer_changes("Unknown parameter: 'metadata'", {"metadata": {}}, status=status) is None


def test_learning_can_be_disabled() -> None:
    profile = replace(GENERIC, learn=False)
    assert infer_changes("Unknown parameter: 'metadata'", {"metadata": {}}, profile) is None


def test_only_the_head_of_a_long_message_is_searched() -> None:
    """A text that almost matches everywhere must not take quadratic time."""
    message = " " * MAX_SEARCHED_CHARACTERS + "Unknown parameter: 'metadata'"

    assert infer_changes(message, {"metadata": {}}) is None
    for text in ("null ", "valid string ", "'loc': ['body', ", "unknown parameter 'a ", "values "):
        for protocol in ("chat", "responses"):
            infer_changes(text * 80_000, {"metadata": {}}, protocol=protocol)


def test_no_quirk_for_parameter_that_was_not_sent() -> None:
    assert infer_changes("Unknown parameter: 'metadata'", {}) is None


# -- one value of a parameter --------------------------------------------------------------------


def infer_from_message(
    message: str, body: Json, param: str | None = None, **more: Any
) -> InferredQuirk | None:
    refusal = UpstreamRefused(400, {"message": message, "param": param})
    return infer_quirk(
        refusal, more.get("protocol", "chat"), {"model": "m", **body}, PASSTHROUGH_PROFILE
    )


UNSUPPORTED_LOTS = (
    "Unsupported value: 'lots' is not supported with the 'm' model. "
    "Supported values are: 'low', 'medium', and 'high'."
)
ABSENT = {"type": "function", "function": {"name": "absent"}}


@check_each(
    ("message", "param", "body"),
    [
        (UNSUPPORTED_LOTS, "reasoning_effort", {"reasoning_effort": "lots"}),
        (UNSUPPORTED_LOTS, None, {"reasoning_effort": "lots"}),
        ("unknown variant `lots`, expected one of `low`", "reasoning_effort",
         {"reasoning_effort": "lots"}),
        ("'lots' is not supported", "reasoning_effort", {"reasoning_effort": ["lots"]}),
        ("Unknown service_tier: zzz", "service_tier", {"service_tier": "zzz"}),
        ("Unsupported value: 'user'", None, {"service_tier": "user"}),
        ("Unsupported value: 'loud'", "verbosity", {"verbosity": "loud"}),
        ("Unsupported value: 99999", "max_tokens", {"max_tokens": 99999}),
        ("max_tokens: 99999 is not supported", "max_tokens", {"max_tokens": 99999}),
        ("'yes' is not supported", "parallel_tool_calls", {"parallel_tool_calls": "yes"}),
        ("Unsupported value: 'messages[0].name'", "messages[0].name", {"messages": [USER]}),
        ("unknown variant `lots`", "tool_choice", {"tools": [LOOK], "tool_choice": "lots"}),
        ("unknown variant", "tool_choice", {"tools": [LOOK], "tool_choice": ABSENT}),
        ("tool_choice: 'absent' is not specified in 'tools'", "tool_choice",
         {"tools": [LOOK], "tool_choice": ABSENT}),
        ("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice",
         {"tool_choice": "required"}),
        ("Unsupported value: 'none'", "tool_choice", {"tools": [LOOK], "tool_choice": "none"}),
        ("Unsupported value: 'yaml'", "response_format", {"response_format": {"type": "yaml"}}),
    ],
)  # fmt: skip
def test_invalid_value_of_client_infers_no_quirk(
    message: str, param: str | None, body: Json
) -> None:
    assert infer_from_message(message, body, param) is None


@check_each(
    ("message", "param", "body", "changes"),
    [
        ("Invalid service_tier argument: flex is not supported for this model.", "service_tier",
         {"service_tier": "flex"}, {"drop": frozenset({"service_tier"})}),
        ("service_tier 'flex' is not supported", "service_tier",
         {"service_tier": "flex"}, {"drop": frozenset({"service_tier"})}),
        ("temperature 1.7 is not supported", "temperature",
         {"temperature": 1.7}, {"drop": frozenset({"temperature"})}),
        ("reasoning_effort: 'high' is not supported", "reasoning_effort",
         {"reasoning_effort": "high"}, {"drop": frozenset({"reasoning_effort"})}),
        ("unknown variant", "tool_choice",
         {"tools": [LOOK], "tool_choice": LOOK}, {"forced_tool_choice": "auto"}),
        ("Unsupported value: 'auto'", "tool_choice",
         {"tools": [LOOK], "tool_choice": "auto"}, {"drop": frozenset({"tool_choice"})}),
    ],
)  # fmt: skip
def test_refused_valid_value_is_dropped_once(
    message: str, param: str, body: Json, changes: Json
) -> None:
    assert infer_from_message(message, body, param) == InferredQuirk(changes, is_lasting=False)


@check_each("word", ["values are", "values:", "expected one of"])
def test_refused_effort_maps_to_nearest(word: str) -> None:
    message = f"Unsupported value: 'minimal'. Supported {word} 'low' and 'high'"
    body = {"reasoning_effort": "minimal"}
    assert infer_from_message(message, body, "reasoning_effort") == InferredQuirk(
        {"effort_map": {"minimal": "low"}}
    )


def test_refused_responses_effort_is_dropped_once() -> None:
    body = {"reasoning": {"effort": "high"}}
    quirk = infer_from_message(
        "'high' is not supported", body, "reasoning.effort", protocol="responses"
    )
    assert quirk == InferredQuirk({"drop": frozenset({"reasoning"})}, is_lasting=False)
    body = {"reasoning": {"effort": "lots"}}
    assert (
        infer_from_message(UNSUPPORTED_LOTS, body, "reasoning.effort", protocol="responses") is None
    )


@check_each(
    ("message", "param", "body"),
    [
        ("Unsupported parameter: 'service_tier'.", "service_tier", {"service_tier": "flex"}),
        ("[{'type': 'extra_forbidden', 'loc': ['body', 'user'], 'input': 'bob'}]", None,
         {"user": "bob"}),
        ("Unsupported value: 'temperature' does not support 0.2 with this model. "
         "Only the default (1) value is supported.", "temperature", {"temperature": 0.2}),
        ("Unknown parameter: 'user'", "user", {"user": "user"}),
    ],
)  # fmt: skip
def test_refused_parameter_is_learned_with_any_value(
    message: str, param: str | None, body: Json
) -> None:
    (name,) = body
    assert infer_from_message(message, body, param) == InferredQuirk({"drop": frozenset({name})})

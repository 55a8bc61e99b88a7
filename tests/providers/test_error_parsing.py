"""Error messages that providers were observed to send."""

from __future__ import annotations

from forwarder.providers.error_parsing import (
    find_complaint_kinds,
    find_refused_parameters,
    is_about_value,
)
from tests.helpers.check_cases import check_each

NAMED: list[tuple[str, str | None, list[tuple[str, ...]]]] = [
    ("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
     "'max_completion_tokens' instead.", "max_tokens", [("max_tokens",)]),
    ("Unrecognized request argument supplied: seed", None, [("seed",)]),
    ("Unknown parameter: 'metadata'.", None, [("metadata",)]),
    ("property 'verbosity' is unsupported", None, [("verbosity",)]),
    ("Model does not support parameter presencePenalty", None, [("presence_penalty",)]),
    ("Argument not supported on this model: stop", None, [("stop",)]),
    ("[{'type': 'extra_forbidden', 'loc': ['body', 'user'], 'msg': 'Extra inputs are not "
     "permitted'}, {'type': 'extra_forbidden', 'loc': ['body', 'messages', 0, 'user', 'name']}]",
     None, [("user",), ("messages", "user", "name")]),
    ('{"detail":[{"type":"extra_forbidden","loc":["body","frequency_penalty"]}]}', None,
     [("frequency_penalty",)]),
    ("body -> frequency_penalty\n  Extra inputs are not permitted (type=extra_forbidden)\n"
     "body -> n\n  Extra inputs are not permitted", None, [("frequency_penalty",), ("n",)]),
    ("property 'reasoning_content' is unsupported", "messages[1].reasoning_content",
     [("messages", "reasoning_content")]),
    ("Unsupported value: 'temperature' does not support 0.2 with this model.", "temperature",
     [("temperature",)]),
    ("Invalid 'temperature': decimal above maximum value.", "temperature", []),
    ("max_tokens is too large: 99999.", "max_tokens", []),
    ("This model's maximum context length is 8192 tokens.", "messages", []),
]  # fmt: skip


@check_each(("message", "param", "paths"), NAMED)
def test_find_refused_parameters(
    message: str, param: str | None, paths: list[tuple[str, ...]]
) -> None:
    refused = find_refused_parameters(message, param)
    assert set(paths) <= set(refused)  # the result may contain other words
    assert bool(paths) is bool(refused)


PHRASES = [
    ("This model only support stream mode, please enable the stream parameter to access the model.",
     "chat", "stream"),
    ("parameter.enable_thinking must be set to false for non-streaming calls", "chat", "stream"),
    ("parameter.enable_thinking only support stream call", "chat", "stream"),
    ("Requests with max_tokens > 4096 must have stream=true", "chat", "stream"),
    ("Stream must be set to true", "responses", "stream"),
    ("Failed to deserialize: messages[0].role: unknown variant `developer`, expected one of "
     "`system`, `user`", "chat", "developer"),
    ("messages 参数非法: 角色信息不正确", "chat", "developer"),
    ("System message must be at the beginning.", "chat", "system first"),
    ("System role not supported", "chat", "system unknown"),
    ("Conversation roles must alternate user/assistant/user/assistant/...", "chat", "alternation"),
    ("The tool_choice parameter does not support being set to required or object in thinking mode",
     "chat", "forced tool"),
    ("tool_choice 'specified' is incompatible with thinking enabled", "chat", "forced tool"),
    ("thinking is enabled but reasoning_content is missing in assistant tool call message at index "
     "2", "chat", "reasoning missing"),
    ("The `reasoning_content` in the thinking mode must be passed back to the API.", "chat",
     "reasoning missing"),
    ("The reasoning_text must be passed back", "responses", "reasoning text missing"),
    ("Invalid 'input[2].content': array too long. Expected an array with maximum length 0",
     "responses", "reasoning text refused"),
    ("The encrypted content gAAA... could not be verified.", "responses", "foreign reasoning"),
    ("Item with id 'rs_6812' not found.", "responses", "foreign reasoning"),
    ("tools.function.parameters is not a valid moonshot flavored json schema, details: <At path "
     "'root': ...>", "chat", "schema"),
    ("This response_format type is unavailable now", "chat", "format"),
    ("Input should be a valid string: 'messages[0].content'", "chat", "text only"),
    ("Tool call id was call_x but must be a-z, A-Z, 0-9, with a length of 9.", "chat", "id length"),
]  # fmt: skip


@check_each(("message", "protocol", "kind"), PHRASES)
def test_find_complaint_kinds(message: str, protocol: str, kind: str) -> None:
    assert kind in find_complaint_kinds(message, protocol)


@check_each(
    "message",
    [
        "This model's maximum context length is 8192 tokens.",
        "Insufficient balance",
        "The model `x` does not exist",
        "Invalid 'temperature': decimal above maximum value.",
        "Content was flagged by the safety filter.",
    ],
)
@check_each("protocol", ["chat", "responses"])
def test_other_messages_have_no_kind(message: str, protocol: str) -> None:
    assert list(find_complaint_kinds(message, protocol)) == []


VALUES = [
    ("Unsupported value: 'x'", "y", True),
    ("unknown variant `x`, expected one of `a`", None, True),
    ("Supported values are: 'a'", None, True),
    ("Invalid service_tier argument: flex is not supported", "flex", True),
    ("The 'service_tier' parameter value 'flex' is not supported", "flex", True),
    ("temperature 1.5 is not supported.", 1.5, True),
    ("a top_k of 5 is not supported on m-1.5", 5, True),
    ("'lots' is not supported", ["lots"], True),
    ("'lots' is not supported", {"function": {"name": "lots"}}, True),
    ("top_k is not supported on m-1.5", 1, False),
    ("top_k is not supported on m-1.5", 5, False),
    ("top_k is not supported", True, False),
    ("top_k is not supported", "", False),
    ("flexible tiers are not supported", "flex", False),
    ("Unsupported parameter: 'user'", "user", False),
    ("Unknown parameter: 'user'. Supported values are: none", "bob", False),
    ("property 'user' is unsupported", "user", False),
    ("Argument not supported on this model: stop", "stop", False),
    ("Model does not support parameter presencePenalty", 1, False),
    ("Extra inputs are not permitted, input: 'bob'", "bob", False),
    ("Unsupported value: 'temperature'. Only the default (1) value is supported.", 0.2, False),
]


@check_each(("message", "value", "expected"), VALUES)
def test_is_about_value(message: str, value: object, expected: bool) -> None:
    assert is_about_value(message, value) is expected

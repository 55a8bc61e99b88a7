"""Anthropic's Messages API: errors, whole answers, models; and that its tables are complete."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest

from forwarder.core import errors
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, UpstreamRefused
from forwarder.core.types import Batch, EventStream
from forwarder.protocols.messages import (
    MESSAGES,
    append_messages_error,
    encode_error,
    fold_messages,
    make_model_page,
)
from forwarder.protocols.messages_dispositions import (
    MESSAGES_BLOCKS,
    MESSAGES_PARAMETERS,
    MESSAGES_TOOLS,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

MODELS = [{"id": name, "created": 0} for name in "abcde"]


# -- tables -------------------------------------------------------------------------------------


def test_every_parameter_of_the_sdk_has_a_disposition() -> None:
    pytest.importorskip("anthropic")
    from anthropic.types import message_count_tokens_params, message_create_params
    from anthropic.types.beta import message_create_params as beta

    sdk_parameters = {
        "stream",
        "output_format",
        "temperature",
        "top_k",
        "top_p",
    }  # including parameters of older SDKs
    for params in (
        message_create_params.MessageCreateParamsBase,
        beta.MessageCreateParamsBase,
        message_count_tokens_params.MessageCountTokensParams,
    ):
        sdk_parameters |= set(params.__annotations__)
    assert MESSAGES_PARAMETERS.keys() == sdk_parameters


def list_types(union: Any) -> set[str]:
    """The types of the objects in a union of the SDK."""
    members = [
        member_type for member_type in get_args(union) if hasattr(member_type, "__required_keys__")
    ]
    hints = [get_type_hints(member).get("type") for member in members]
    return {kind for hint in hints for kind in get_args(hint) if isinstance(kind, str)}


def test_every_block_of_the_sdk_has_a_disposition() -> None:
    pytest.importorskip("anthropic")
    from anthropic.types import ContentBlockParam, tool_result_block_param
    from anthropic.types.beta import BetaContentBlockParam

    blocks = list_types(ContentBlockParam) | list_types(BetaContentBlockParam)
    blocks |= list_types(tool_result_block_param.Content)
    assert len(blocks) > 15
    assert blocks <= {row.partition(",")[0] for row in MESSAGES_BLOCKS}


def test_every_tool_of_the_sdk_has_a_disposition() -> None:
    pytest.importorskip("anthropic")
    from anthropic.types import ToolUnionParam
    from anthropic.types.beta import BetaToolUnionParam

    tools = list_types(ToolUnionParam) | list_types(BetaToolUnionParam)
    assert len(tools) > 15
    assert tools <= MESSAGES_TOOLS.keys()


# -- errors -------------------------------------------------------------------------------------


def make_refusal(status: int, **error: str) -> UpstreamRefused:
    return UpstreamRefused(status, {"message": "no", **error})


@check_each(
    ("error", "status", "error_type"),
    [
        (InvalidRequest("no"), 400, "invalid_request_error"),
        (errors.Unauthorized("no"), 401, "authentication_error"),
        (errors.Forbidden("no"), 403, "permission_error"),
        (NotFound("no"), 404, "not_found_error"),
        (errors.MethodNotAllowed("no"), 405, "invalid_request_error"),
        (errors.TooLarge("no"), 413, "request_too_large"),
        (errors.RateLimited("no", kind="requests"), 429, "rate_limit_error"),
        (errors.Overloaded("no"), 529, "overloaded_error"),
        (errors.ShuttingDown(), 529, "overloaded_error"),
        (errors.UpstreamUnreachable("no"), 502, "api_error"),
        (errors.UpstreamTimeout("no"), 504, "timeout_error"),
        (errors.InternalError("no"), 500, "api_error"),
        (make_refusal(402), 402, "billing_error"),
        (make_refusal(418), 418, "invalid_request_error"),
    ],
)
def test_errors_have_anthropics_types(error: ForwarderError, status: int, error_type: str) -> None:
    answer = encode_error(error, "req_1")

    assert answer.status == status
    assert answer.body == {
        "type": "error",
        "error": {"type": error_type, "message": error.message},
        "request_id": "req_1",
    }


def test_context_length_error_has_the_message_for_claude_code() -> None:
    error = make_refusal(400, code="context_length_exceeded")

    assert encode_error(error, "").body["error"]["message"] == "prompt is too long: no"


def test_thread_error_has_details_for_the_tool_runner() -> None:
    module = pytest.importorskip("anthropic.types.thread_unsupported_request_error_details")
    error = encode_error(errors.Unsupported("no", param="thread"), "").body["error"]
    other_error = encode_error(errors.Unsupported("no", param="prompt"), "").body["error"]

    module.ThreadUnsupportedRequestErrorDetails.model_validate(error["details"])
    assert "details" not in other_error


def test_failure_ends_the_stream_with_an_error_event() -> None:
    def break_off() -> EventStream:
        yield [{"type": "message_start"}]
        raise errors.UpstreamTimeout("too slow")

    start, end = append_messages_error(break_off())

    assert start == [{"type": "message_start"}]
    error = {"type": "timeout_error", "message": "too slow"}
    assert end == [{"type": "error", "error": error}]


def test_failure_after_the_end_is_ignored() -> None:
    def break_off() -> EventStream:
        yield [{"type": "message_stop"}]
        yield []
        raise errors.UpstreamTimeout("too slow")

    assert list(append_messages_error(break_off())) == [[{"type": "message_stop"}], []]


# -- whole answers ------------------------------------------------------------------------------


def make_events(*deltas: Json, block: Json) -> Batch:
    message = {"id": "msg_1", "content": [], "usage": {"input_tokens": 0, "output_tokens": 0}}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 3},
        },
        {"type": "message_stop"},
    ]


@check_each(("arguments", "expected"), [('{"a": 1}', {"a": 1}), ('{"a": ', {}), ("[1]", {})])
def test_fold_parses_the_input_of_calls(arguments: str, expected: Json) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in arguments]

    message = fold_messages(iter([make_events(*deltas, block=call)]))

    assert message["content"] == [{**call, "input": expected}]
    assert message["usage"] == {"input_tokens": 0, "output_tokens": 3}


def test_fold_adds_citations() -> None:
    citations = [{"type": "web_search_result_location", "url": url} for url in "ab"]
    deltas = [{"type": "citations_delta", "citation": citation} for citation in citations]

    message = fold_messages(iter([make_events(*deltas, block={"type": "text", "text": ""})]))

    assert message["content"][0]["citations"] == citations


def test_fold_raises_errors_and_requires_a_terminal_event() -> None:
    events = make_events(block={"type": "text", "text": ""})
    with pytest.raises(errors.UpstreamProtocolError):
        fold_messages(iter([events[:-1]]))
    with pytest.raises(errors.UpstreamError, match="broken"):
        fold_messages(iter([[{"type": "error", "error": {"message": "broken"}}]]))


def test_framing_writes_event_names_and_pings() -> None:
    framing = MESSAGES.framing

    assert framing.encode([{"type": "message_stop"}]) == (
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    assert framing.keep_alive == b'event: ping\ndata: {"type":"ping"}\n\n'


# -- models -------------------------------------------------------------------------------------


@check_each(
    ("query", "ids", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "d"}, "e", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "3", "before_id": "b"}, "a", False),
        ({"after_id": "e"}, "", False),
    ],
)
def test_models_are_listed_in_pages(query: dict[str, str], ids: str, has_more: bool) -> None:
    page = make_model_page(MODELS, query)

    assert [model["id"] for model in page["data"]] == list(ids)
    assert page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@check_each("limit", ["0", "1001", "x", "-1", "", "99999"])
def test_invalid_page_limit_is_rejected(limit: str) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        make_model_page(MODELS, {"limit": limit})


def test_unknown_model_in_a_query_is_not_found() -> None:
    with pytest.raises(NotFound):
        make_model_page(MODELS, {"after_id": "z"})


def test_model_entries_match_the_sdk_type() -> None:
    types = pytest.importorskip("anthropic.types")
    for entry in make_model_page([*MODELS, {"id": "x", "created": "soon"}], {})["data"]:
        model = types.ModelInfo.model_validate(entry)
        assert model.created_at.year == 1970

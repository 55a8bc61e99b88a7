"""Adapts an upstream request body to its provider, and repairs the provider's answer.

Each step of `adapt_request`, ``(body, profile, loss_report)``, may change the top level of the
body, which is a copy. Deeper values are shared with the client's request: a step replaces them
instead of changing them. A step reports all losses in the loss report.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import DICT, read_field
from forwarder.providers import (
    chat_messages,
    name_shortening,
    responses_api,
    thinking,
    tool_result_media,
    tools,
)
from forwarder.providers.name_shortening import map_long_names, restore_names
from forwarder.providers.profile import Profile
from forwarder.providers.responses_repair import repair_stream


def adapt_request(body: Json, protocol: str, profile: Profile, loss_report: LossReport) -> Json:
    """Return a copy of ``body`` that this provider accepts.

    Raises InvalidRequest if a passed-through body has a wrong type where a step needs a value.
    """
    adapted = dict(body)
    for step in _ADAPTATION_STEPS[protocol]:
        step(adapted, profile, loss_report)
    return adapted


# -- parameters ---------------------------------------------------------------------------------


def drop_parameters(body: Json, profile: Profile, loss_report: LossReport) -> None:
    for name in sorted(profile.drop & body.keys()):
        if body.pop(name) != _NEUTRAL_VALUES.get(name, ...):
            loss_report.drop(name, f"{profile.name} does not take it")


_NEUTRAL_VALUES = {"store": False}
"""Values that can be dropped without a loss: a provider without ``store`` stores nothing."""


def add_parameters(body: Json, profile: Profile, loss_report: LossReport) -> None:
    for name, value in profile.add.items():
        body.setdefault(name, value)


def add_responses_parameters(body: Json, profile: Profile, loss_report: LossReport) -> None:
    for name, value in profile.responses_add.items():
        body.setdefault(name, value)


def rename_token_limit(body: Json, profile: Profile, loss_report: LossReport) -> None:
    if profile.max_tokens == "as_is":
        return
    for name in ("max_completion_tokens", "max_tokens"):
        if name != profile.max_tokens and name in body:
            limit = body.pop(name)
            body.setdefault(profile.max_tokens, limit)


def force_stream(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Request a stream instead of a complete answer if the provider has only streams."""
    if not profile.always_stream or body.get("stream") is not False:
        return
    body["stream"] = True
    if "messages" in body:
        body["stream_options"] = {"include_usage": True}


def drop_stream_options(body: Json, profile: Profile, loss_report: LossReport) -> None:
    if not profile.stream_options:
        body.pop("stream_options", None)


def drop_parallel_tool_calls(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Drop the parameter if the provider does not take it.

    It is not a loss if the forwarder itself keeps only the first call of an answer.  The forwarder
    cannot do this if the upstream stores the response with all its calls.
    """
    if profile.parallel_tool_calls or body.pop("parallel_tool_calls", None) is not False:
        return
    if profile.keeps_responses and "input" in body:
        loss_report.drop("parallel_tool_calls", f"{profile.name} does not take it")


_SCHEMA_INSTRUCTION = "Answer with nothing but a JSON value that fits this JSON Schema: "


def adapt_response_format(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Replace a response format that the provider does not enforce by an instruction."""
    level = profile.response_format
    if level == "json_schema" or not body.get("response_format"):
        return
    response_format = read_field(body, "response_format", DICT, "response_format")
    kind = response_format.get("type")
    if level == "schema_only":
        if kind == "json_object":
            anything = {"name": "answer", "schema": {"type": "object"}}
            body["response_format"] = {"type": "json_schema", "json_schema": anything}
        return
    if level == "none":
        del body["response_format"]
    elif kind == "json_schema":
        body["response_format"] = {"type": "json_object"}
    if kind == "json_schema" or (kind == "json_object" and level == "none"):
        reason = f"{profile.name} does not enforce it; an instruction asks for it"
        loss_report.drop("response_format", reason)
        path = "response_format.json_schema"
        wrapper = read_field(response_format, "json_schema", DICT, path) or {}
        schema = wrapper.get("schema") or {"type": "object"}
        text = _SCHEMA_INSTRUCTION + orjson.dumps(schema).decode()
        body["messages"] = chat_messages.add_instruction(tools.read_objects(body, "messages"), text)


# -- messages -----------------------------------------------------------------------------------


def adapt_messages(body: Json, profile: Profile, loss_report: LossReport) -> None:
    placed = tool_result_media.place_media(
        tools.read_objects(body, "messages"), profile, loss_report
    )
    for name in chat_messages.find_lost_fields(placed, profile):
        loss_report.note(f"messages.{name}", f"{profile.name} does not take it")
    if chat_messages.has_missing_signature(placed, profile):
        reason = f"the signature of a call is unknown: {profile.name} gets a placeholder"
        loss_report.note("messages.tool_calls.extra_content", reason)
    body["messages"] = chat_messages.adapt_messages(placed, profile)


AdaptationStep = Callable[[Json, Profile, LossReport], None]

_ADAPTATION_STEPS: dict[str, tuple[AdaptationStep, ...]] = {
    "chat": (
        drop_parameters,
        add_parameters,
        rename_token_limit,
        force_stream,
        drop_stream_options,
        drop_parallel_tool_calls,
        tools.adapt_tools,
        tools.adapt_forced_choice,
        tools.adapt_schemas,
        adapt_response_format,
        thinking.apply_thinking_switch,
        adapt_messages,
        name_shortening.fit_names,
    ),
    "responses": (
        drop_parameters,
        add_responses_parameters,
        force_stream,
        drop_parallel_tool_calls,
        tools.adapt_schemas,
        thinking.rename_effort,
        responses_api.adapt_reasoning,
        responses_api.drop_client_metadata,
        responses_api.adapt_include,
        responses_api.adapt_items,
    ),
}


# -- answers ------------------------------------------------------------------------------------


def adapt_response(
    stream: EventStream,
    request: Json,
    protocol: str,
    profile: Profile,
    saw_done_marker: Callable[[], bool],
) -> EventStream:
    """Repair the answer to ``request``, and restore tool names that `adapt_request` shortened.

    ``request`` is the body before `adapt_request`. A stream that needs neither is returned
    unchanged. ``saw_done_marker`` returns whether ``[DONE]`` arrived.
    """
    return _RESPONSE_ADAPTERS[protocol](stream, request, profile, saw_done_marker)


def adapt_chat_stream(
    stream: EventStream, request: Json, profile: Profile, saw_done_marker: Callable[[], bool]
) -> EventStream:
    long_names = map_long_names(request, profile.tool_name_limit)
    if not long_names:
        return stream
    return ([restore_names(event, long_names) for event in batch] for batch in stream)


def adapt_responses_stream(
    stream: EventStream, request: Json, profile: Profile, saw_done_marker: Callable[[], bool]
) -> EventStream:
    if not profile.repair_responses:
        return stream
    return repair_stream(stream, saw_done_marker, ID_SOURCE)


_RESPONSE_ADAPTERS = {"chat": adapt_chat_stream, "responses": adapt_responses_stream}
"""The upstream's protocol -> the function that adapts its streams."""

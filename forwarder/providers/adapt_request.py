"""A request body that is about to leave -> one that the provider takes.

Each mend is a step ``(body, profile, ledger)`` that changes the top level of a body of its own;
what lies deeper is shared with the client's request and is replaced, never changed.  What a mend
loses goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import DICT, read_field
from forwarder.providers import media, messages, names, responses_api, thinking, tools
from forwarder.providers.profile import Profile


def adapt_request(body: Json, protocol: str, profile: Profile, ledger: LossReport) -> Json:
    """Give ``body`` as this provider takes it.

    A body of the client's own has not been looked at yet; raises InvalidRequest where it is not of
    the shape that a mend relies on.
    """
    mended = dict(body)
    for step in _ADAPTATION_STEPS[protocol]:
        step(mended, profile, ledger)
    return mended


# -- parameters ---------------------------------------------------------------------------------


def drop_parameters(body: Json, profile: Profile, ledger: LossReport) -> None:
    for name in sorted(profile.drop & body.keys()):
        if body.pop(name) != _NEUTRAL_VALUES.get(name, ...):
            ledger.drop(name, f"{profile.name} does not take it")


_NEUTRAL_VALUES = {"store": False}
"""Values that ask for what is so in any case: who does not know ``store`` does not do it."""


def add_parameters(body: Json, profile: Profile, ledger: LossReport) -> None:
    for name, value in profile.add.items():
        body.setdefault(name, value)


def add_responses_parameters(body: Json, profile: Profile, ledger: LossReport) -> None:
    for name, value in profile.responses_add.items():
        body.setdefault(name, value)


def rename_token_limit(body: Json, profile: Profile, ledger: LossReport) -> None:
    if profile.max_tokens == "as_is":
        return
    for name in ("max_completion_tokens", "max_tokens"):
        if name != profile.max_tokens and name in body:
            limit = body.pop(name)
            body.setdefault(profile.max_tokens, limit)


def force_stream(body: Json, profile: Profile, ledger: LossReport) -> None:
    """Where there are only streams, one is asked for in place of a whole answer."""
    if not profile.always_stream or body.get("stream") is not False:
        return
    body["stream"] = True
    if "messages" in body:
        body["stream_options"] = {"include_usage": True}


def drop_stream_options(body: Json, profile: Profile, ledger: LossReport) -> None:
    if not profile.stream_options:
        body.pop("stream_options", None)


def drop_parallel_tool_calls(body: Json, profile: Profile, ledger: LossReport) -> None:
    """All but the first of several calls fall away here, unless the upstream remembers them."""
    if profile.parallel_tool_calls or body.pop("parallel_tool_calls", None) is not False:
        return
    if profile.keeps_responses and "input" in body:
        ledger.drop("parallel_tool_calls", f"{profile.name} does not take it")


_SCHEMA_INSTRUCTION = "Answer with nothing but a JSON value that fits this JSON Schema: "


def adapt_response_format(body: Json, profile: Profile, ledger: LossReport) -> None:
    """What the provider does not enforce, the model is asked for."""
    level = profile.response_format
    if level == "json_schema" or not body.get("response_format"):
        return
    wanted = read_field(body, "response_format", DICT, "response_format")
    kind = wanted.get("type")
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
        ledger.drop("response_format", f"{profile.name} is asked for it, but does not enforce it")
        inner = read_field(wanted, "json_schema", DICT, "response_format.json_schema") or {}
        schema = inner.get("schema") or {"type": "object"}
        text = _SCHEMA_INSTRUCTION + orjson.dumps(schema).decode()
        body["messages"] = messages.add_instruction(tools.read_objects(body, "messages"), text)


# -- messages -----------------------------------------------------------------------------------


def adapt_messages(body: Json, profile: Profile, ledger: LossReport) -> None:
    placed = media.place_media(tools.read_objects(body, "messages"), profile, ledger)
    for name in messages.find_lost_fields(placed, profile):
        ledger.note(f"messages.{name}", f"{profile.name} does not take it")
    if messages.has_missing_signature(placed, profile):
        reason = f"the signature of a call is not known: {profile.name} gets a placeholder"
        ledger.note("messages.tool_calls.extra_content", reason)
    body["messages"] = messages.adapt_messages(placed, profile)


def fit_tool_names(body: Json, profile: Profile, ledger: LossReport) -> None:
    names.fit_names(body, profile)


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
        fit_tool_names,
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

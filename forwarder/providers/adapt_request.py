"""A request body that is about to leave -> one that the provider takes.

Each mend is a step ``(body, profile, ledger)`` that changes the top level of a body of its own;
what lies deeper is shared with the client's request and is replaced, never changed.  What a mend
loses goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import DICT, optional
from forwarder.providers import media, messages, names, responses_api, thinking, tools
from forwarder.providers.profile import Profile


def mend(body: Json, protocol: str, profile: Profile, ledger: Ledger) -> Json:
    """Give ``body`` as this provider takes it.

    A body of the client's own has not been looked at yet; raises InvalidRequest where it is not of
    the shape that a mend relies on.
    """
    mended = dict(body)
    for step in _STEPS[protocol]:
        step(mended, profile, ledger)
    return mended


# -- parameters ---------------------------------------------------------------------------------


def _drop(body: Json, profile: Profile, ledger: Ledger) -> None:
    for name in sorted(profile.drop & body.keys()):
        if body.pop(name) != _NEUTRAL.get(name, ...):
            ledger.drop(name, f"{profile.name} does not take it")


_NEUTRAL = {"store": False}
"""Values that ask for what is so in any case: who does not know ``store`` does not do it."""


def _add(body: Json, profile: Profile, ledger: Ledger) -> None:
    for name, value in profile.add.items():
        body.setdefault(name, value)


def _add_to_responses(body: Json, profile: Profile, ledger: Ledger) -> None:
    for name, value in profile.responses_add.items():
        body.setdefault(name, value)


def _token_limit(body: Json, profile: Profile, ledger: Ledger) -> None:
    if profile.max_tokens == "as_is":
        return
    for name in ("max_completion_tokens", "max_tokens"):
        if name != profile.max_tokens and name in body:
            limit = body.pop(name)
            body.setdefault(profile.max_tokens, limit)


def _stream(body: Json, profile: Profile, ledger: Ledger) -> None:
    """Where there are only streams, one is asked for in place of a whole answer."""
    if not profile.always_stream or body.get("stream") is not False:
        return
    body["stream"] = True
    if "messages" in body:
        body["stream_options"] = {"include_usage": True}


def _stream_options(body: Json, profile: Profile, ledger: Ledger) -> None:
    if not profile.stream_options:
        body.pop("stream_options", None)


def _parallel(body: Json, profile: Profile, ledger: Ledger) -> None:
    """All but the first of several calls fall away here, unless the upstream remembers them."""
    if profile.parallel_tool_calls or body.pop("parallel_tool_calls", None) is not False:
        return
    if profile.keeps_responses and "input" in body:
        ledger.drop("parallel_tool_calls", f"{profile.name} does not take it")


_FITTING = "Answer with nothing but a JSON value that fits this JSON Schema: "


def _format(body: Json, profile: Profile, ledger: Ledger) -> None:
    """What the provider does not enforce, the model is asked for."""
    level = profile.response_format
    if level == "json_schema" or not body.get("response_format"):
        return
    wanted = optional(body, "response_format", DICT, "response_format")
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
        inner = optional(wanted, "json_schema", DICT, "response_format.json_schema") or {}
        schema = inner.get("schema") or {"type": "object"}
        text = _FITTING + orjson.dumps(schema).decode()
        body["messages"] = messages.instructed(tools.objects(body, "messages"), text)


# -- messages -----------------------------------------------------------------------------------


def _messages(body: Json, profile: Profile, ledger: Ledger) -> None:
    placed = media.placed(tools.objects(body, "messages"), profile, ledger)
    for name in messages.lost(placed, profile):
        ledger.note(f"messages.{name}", f"{profile.name} does not take it")
    if messages.lacks_signature(placed, profile):
        reason = f"the signature of a call is not known: {profile.name} gets a placeholder"
        ledger.note("messages.tool_calls.extra_content", reason)
    body["messages"] = messages.taken(placed, profile)


def _names(body: Json, profile: Profile, ledger: Ledger) -> None:
    names.fit(body, profile)


_Step = Callable[[Json, Profile, Ledger], None]

_STEPS: dict[str, tuple[_Step, ...]] = {
    "chat": (_drop, _add, _token_limit, _stream, _stream_options, _parallel, tools.offer,
             tools.force, tools.schemas, _format, thinking.switch, _messages, _names),
    "responses": (_drop, _add_to_responses, _stream, _parallel, tools.schemas, thinking.rename,
                  responses_api.reasoning, responses_api.client_metadata, responses_api.include,
                  responses_api.items),
}  # fmt: skip

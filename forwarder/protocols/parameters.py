"""The fate of every request parameter when it has to change protocols.

A parameter is one of

- *carried*: it goes over under its own name, as it is;
- *mapped*: the request translators give it another name, shape or place;
- *emulated*: the other side lacks it, and a wrapper around the call does its work;
- *offered*: it goes over as it is to an upstream that takes it beyond the protocol, and is dropped
  for the others;
- *local*: it is for the forwarder itself and is honoured here;
- *dropped*: it has no counterpart; the reason is recorded and the client is told;
- *refused*: leaving it out would change what the client gets, so the request fails.

``neutral`` are the values that ask for nothing: a parameter that is lost passes in silence when it
holds one, and nothing is emulated for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR, Types, expect


class Fate(NamedTuple):
    """What becomes of a parameter, the JSON types it may have, and why."""

    kind: str
    types: Types = ANY
    why: str = ""
    neutral: tuple[Any, ...] = ()


def carried(types: Types) -> Fate:
    return Fate("carried", types)


def mapped(types: Types, why: str) -> Fate:
    return Fate("mapped", types, why)


def emulated(types: Types, why: str, *neutral: Any) -> Fate:
    return Fate("emulated", types, why, neutral)


def offered(types: Types, why: str, *neutral: Any) -> Fate:
    return Fate("offered", types, why, neutral)


def local(types: Types, why: str) -> Fate:
    return Fate("local", types, why)


def dropped(types: Types, why: str, *neutral: Any) -> Fate:
    return Fate("dropped", types, why, neutral)


def refused(types: Types, why: str, *neutral: Any) -> Fate:
    return Fate("refused", types, why, neutral)


_COMMON = {
    "model": carried(STR),
    "temperature": carried(NUMBER),
    "top_p": carried(NUMBER),
    "parallel_tool_calls": carried(BOOL),
    "metadata": carried(DICT),
    "moderation": carried(DICT),
    "prompt_cache_key": carried(STR),
    "prompt_cache_retention": carried(STR),
    "safety_identifier": carried(STR),
    "user": carried(STR),
    "stream": carried(BOOL),
    "stream_options": local(DICT, "usage is always asked for and given when wanted"),
    "tools": mapped(LIST, "between the nested and the flat shape; namespaces are flattened"),
    "tool_choice": mapped((str, dict), "between the nested and the flat shape"),
}

RESPONSES_OVER_CHAT: dict[str, Fate] = {
    **_COMMON,
    "access_programs": dropped(DICT, "it is a matter of OpenAI's own accounts"),
    "background": emulated(BOOL, "the forwarder does the work, and stores what comes", False),
    "background_options": local(DICT, "background work starts at once, within every window"),
    "client_metadata": local(DICT, "Codex notes its session there, for OpenAI alone"),
    "context_management": emulated(LIST, "above the threshold the model sums up what it did", []),
    "conversation": emulated((str, dict), "its items are put before the input, and it is added"),
    "frequency_penalty": carried(NUMBER),
    "image": dropped(DICT, "Chat Completions has no image compression"),
    "include": mapped(LIST, "asks for log probabilities, or is honoured here"),
    "input": mapped((str, list), "becomes messages"),
    "instructions": mapped(STR, "becomes the first message"),
    "logit_bias": carried(DICT),
    "max_output_tokens": mapped(INT, "is called max_completion_tokens"),
    "max_tool_calls": local(INT, "counts hosted tools, of which none runs here"),
    "presence_penalty": carried(NUMBER),
    "previous_response_id": emulated(STR, "the earlier turns are put before the input"),
    "prompt": refused(DICT, "prompt templates live with OpenAI"),
    "prompt_cache_options": mapped(DICT, "comparison_response_id and prewarm fall away"),
    "reasoning": mapped(DICT, "the effort goes over; the summary decides the form here"),
    "seed": carried(INT),
    "service_tier": mapped(STR, "ultrafast is called priority"),
    "stop": carried((str, list)),
    "store": local(BOOL, "the forwarder stores the response; the upstream stores nothing"),
    "text": mapped(DICT, "becomes response_format and verbosity"),
    "top_logprobs": mapped(INT, "goes with logprobs: true"),
    "truncation": emulated(
        STR, "the oldest turns go when the upstream says that it is too much", "disabled"
    ),
}
"""A Responses client's parameters over a Chat upstream.

How to draw and where to stop are Chat's own, but nothing else is meant by them: they are carried.
"""

_OWN = "the Responses API has no such parameter, and this upstream none of its own"

CHAT_OVER_RESPONSES: dict[str, Fate] = {
    **_COMMON,
    "audio": refused(DICT, "the Responses API answers in text"),
    "frequency_penalty": offered(NUMBER, _OWN, 0),
    "function_call": mapped((str, dict), "the old spelling of tool_choice"),
    "functions": mapped(LIST, "the old spelling of tools"),
    "logit_bias": offered(DICT, _OWN, {}),
    "logprobs": mapped(BOOL, "is asked for by include"),
    "max_completion_tokens": mapped(INT, "is called max_output_tokens, at least 16"),
    "max_tokens": mapped(INT, "is called max_output_tokens, at least 16"),
    "messages": mapped(LIST, "become input items"),
    "modalities": mapped(LIST, "images come from the image_generation tool, audio not at all"),
    "n": emulated(INT, "the upstream is asked as often, and the answers are merged", 1),
    "prediction": offered(DICT, _OWN),
    "presence_penalty": offered(NUMBER, _OWN, 0),
    "prompt_cache_options": carried(DICT),
    "reasoning_effort": mapped(STR, "is called reasoning.effort"),
    "response_format": mapped(DICT, "is called text.format"),
    "seed": offered(INT, _OWN),
    "service_tier": carried(STR),
    "stop": emulated((str, list), "the answer is cut here", []),
    "store": mapped(BOOL, "the Responses API stores unless told not to"),
    "top_logprobs": mapped(INT, "goes with logprobs"),
    "verbosity": mapped(STR, "is called text.verbosity"),
    "web_search_options": mapped(DICT, "becomes the web_search tool"),
}
"""A Chat client's parameters over a Responses upstream."""

TABLES = {"responses": RESPONSES_OVER_CHAT, "chat": CHAT_OVER_RESPONSES}
"""The client's protocol -> the fates of its parameters over the other one."""


_UNKNOWN = offered(ANY, "neither API knows this parameter")
_FOREIGN = offered(ANY, "only the other API knows this parameter")
_KNOWN = RESPONSES_OVER_CHAT.keys() | CHAT_OVER_RESPONSES.keys()


def settle(
    request: Json, fates: dict[str, Fate], ledger: Ledger, takes: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Check every parameter; give those that are mapped or carried as ``(name, value)``.

    Null means absent, in both protocols.  A name that the table does not know is dropped,
    since strict upstreams refuse what they do not know, unless it is one that this one ``takes``.
    """
    for name, value in request.items():
        if value is None:
            continue
        fate = fates.get(name) or (_FOREIGN if name in _KNOWN else _UNKNOWN)
        expect(value, fate.types, name)
        if fate.kind in ("carried", "mapped") or (fate.kind == "offered" and name in takes):
            yield name, value
        elif fate.kind not in ("local", "emulated") and value not in fate.neutral:
            _lose(name, fate, ledger)


def _lose(name: str, fate: Fate, ledger: Ledger) -> None:
    if fate.kind in ("dropped", "offered"):
        ledger.drop(name, fate.why)
    else:
        raise Unsupported(f"Unsupported parameter: '{name}'. Here, {fate.why}.", param=name)

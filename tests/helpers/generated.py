"""Generates random requests from the SDK's request types, and breaks them.

Random choices come from a ``random.Random``, since hypothesis passes one that it can shrink.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from random import Random
from typing import Any, Literal, get_args, get_origin

from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from typing_extensions import is_typeddict

from tests.fake_provider import Answer, Stream
from tests.fake_provider.answers import ModelRequest, Protocol
from tests.fake_provider.shape import UNIONS, list_fields, list_members, strip_qualifiers
from tests.helpers.cases import list_cases
from tests.helpers.mutations import WRONG

Json = dict[str, Any]

BASES: dict[str, Any] = {"chat": CompletionCreateParamsBase, "responses": ResponseCreateParamsBase}
"""Protocol -> the type of its requests, without ``stream``."""

CONVERSATION_PARAMETERS = {"chat": "messages", "responses": "input"}
"""Protocol -> the parameter that holds the conversation."""

DEEP, DEEPER = "\0deep", "\0deeper"
"""Placeholders in a document for nested lists: of the accepted depth, and deeper."""

_LEVELS = {DEEP: 600, DEEPER: 3000}

TEXTS = ("", "a", "hi", "call_1", "f", "Grüezi 🏔", "\u2028\x00", "{}", '{"a": 1}', "auto", "text",
         "data:image/png;base64,iVBORw0KGgo=", "https://example.invalid/a.png", "x" * 300)  # fmt: skip
NUMBERS = (0, 1, 2, -1, 16, 0.5)


# -- requests from types --------------------------------------------------------------------------


def generate_request(random: Random, protocol: str, model: str) -> Json:
    """Generate a request of the SDK's types, or extend one of the cases with more parameters."""
    fields = {n: f for n, f in list_fields(BASES[protocol]).items() if n not in ("model", "stream")}
    body: Json = {"model": model, **random.choice(_load_requests(protocol))}
    for name in random.sample(sorted(fields), random.choice((0, 1, 1, 2, 4))):
        if name not in body or (
            name == CONVERSATION_PARAMETERS[protocol] and random.random() < 0.5
        ):
            body[name] = generate_value(random, fields[name].type)
    if random.random() < 0.3:
        body[CONVERSATION_PARAMETERS[protocol]] = generate_value(
            random, fields[CONVERSATION_PARAMETERS[protocol]].type
        )
    return {**body, "stream": random.choice((True, False))}


@functools.cache
def _load_requests(protocol: str) -> list[Json]:
    """Return requests to extend: half of them plain, half of them the cases."""
    simple_body = {"input": "hi"} if protocol == "responses" else {"messages": [_user("hi")]}
    bodies = [case.values[0].read("request.json") for case in list_cases(None)
             if case.values[0].client == protocol]  # fmt: skip
    return [simple_body] * len(bodies) + [_drop_address(body) for body in bodies]


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _drop_address(body: Json) -> Json:
    return {name: inner for name, inner in body.items() if name not in ("model", "stream")}


def generate_value(random: Random, kind: Any, depth: int = 5) -> Any:
    """Generate a JSON value of a type of the SDK, with fewer and plainer members at each level."""
    kind = strip_qualifiers(kind)
    origin = get_origin(kind)
    if origin in UNIONS:
        return generate_value(random, random.choice(list_members(kind)), depth)
    if origin is Literal:
        return random.choice(get_args(kind))
    if is_typeddict(kind):
        return _generate_object(random, kind, depth)
    if origin is dict:
        return {
            text: generate_value(random, get_args(kind)[1], depth - 1)
            for text in _choose_names(random, depth)
        }
    if kind in _PLAIN:
        return _PLAIN[kind](random)
    if origin is not None:  # all other types with one argument are lists
        return [
            generate_value(random, get_args(kind)[0], depth - 1)
            for _ in _choose_names(random, depth)
        ]
    return _choose_value(random, depth)


def _generate_object(random: Random, kind: Any, depth: int) -> Json:
    fields = list_fields(kind)
    optional = sorted(name for name, field in fields.items() if not field.required)
    some = random.sample(optional, min(len(optional), random.choice((0, 0, 1, 2, 3))))
    names = [n for n, field in fields.items() if field.required or (n in some and depth > 0)]
    return {name: generate_value(random, fields[name].type, depth - 1) for name in names}


def _choose_names(random: Random, depth: int) -> list[str]:
    count = random.choice((0, 1, 1, 2, 3)) if depth > 0 else 0
    return random.sample(("a", "type", "name", "x-y"), count)


def _choose_value(random: Random, depth: int) -> Any:
    return random.choice((None, "a", 1, [], {}, {"type": "object", "properties": {}}, ["a"]))


_PLAIN: dict[Any, Callable[[Random], Any]] = {
    str: lambda random: random.choice(TEXTS),
    int: lambda random: random.choice((0, 1, 2, 16, 1000)),
    float: lambda random: random.choice(NUMBERS),
    bool: lambda random: random.choice((True, False)),
    type(None): lambda random: None,
}


# -- broken requests ------------------------------------------------------------------------------

EXTREMES: tuple[Any, ...] = (
    *WRONG, -1, 2**31, 2**64, -(2**63) - 1, 10**40, 1e308, -0.0, float("nan"), float("inf"),
    "\ud800", "a\udc00b", "\0", "x" * 5000, DEEP, DEEPER, [[]], [{}], [None], {"type": None},
    {"type": "nothing"}, {"role": "nobody"}, "function", "nothing", {"": ""}, False,
)  # fmt: skip
"""Values that replace or are added to those of a document."""


def break_document(random: Random, document: Any) -> Any:
    """Return a copy of ``document`` with one change at any depth."""
    document = copy.deepcopy(document)
    holder, key = random.choice(_list_places(document))
    random.choice(_BREAKS)(random, holder, key)
    return document


def _list_places(document: Any) -> list[tuple[Any, Any]]:
    """Return ``(holder, key)`` of every value in a document."""
    entries = list(document.items() if isinstance(document, dict) else enumerate(document))
    own = [(document, key) for key, _ in entries]
    inner = [i for _, v in entries if isinstance(v, dict | list) and v for i in _list_places(v)]
    return own + inner


def _replace(random: Random, holder: Any, key: Any) -> None:
    holder[key] = random.choice(EXTREMES)


def _remove(random: Random, holder: Any, key: Any) -> None:
    del holder[key]


def _repeat(random: Random, holder: Any, key: Any) -> None:
    """Repeat the value: twice in a list, or under a second name in an object."""
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[f"{key}_too"] = holder[key]


def _wrap(random: Random, holder: Any, key: Any) -> None:
    holder[key] = random.choice(([holder[key]], {str(key): holder[key]}))


def _swap(random: Random, holder: Any, key: Any) -> None:
    """Swap the value with another one of the same holder."""
    other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


def _add(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, random.choice(EXTREMES))
    else:
        holder[random.choice(_NAMES)] = random.choice(EXTREMES)


_NAMES = ("id", "type", "role", "content", "name", "extra", "", "call_id", "status", "tool_calls")
_BREAKS = (_replace, _replace, _replace, _remove, _repeat, _wrap, _swap, _add)


def encode_json(document: Any) -> bytes:
    """Encode as JSON, with ``NaN`` and lone surrogates as Python and JavaScript write them."""
    text = json.dumps(document)
    for mark, levels in _LEVELS.items():
        text = text.replace(json.dumps(mark), "[" * levels + "]" * levels)
    return text.encode()


# -- answers of an upstream -----------------------------------------------------------------------


def generate_events(random: Random, protocol: Protocol, answer: Answer) -> list[Json]:
    """Return the events of an answer, or of one of the cases."""
    streams = _load_streams(protocol)
    if random.random() < 0.5:
        return Stream(answer).events(ModelRequest(protocol, {"model": "m", "stream": True}))
    return random.choice(streams)


@functools.cache
def _load_streams(protocol: str) -> list[list[Json]]:
    cases = (c.values[0] for c in list_cases(streams=True))
    return [case.read("upstream.jsonl") for case in cases if case.upstream == protocol]


def frame_events(random: Random, events: list[Any]) -> bytes:
    """Return the events as the body of a stream, with or without ``[DONE]``."""
    end = b"data: [DONE]\n\n" if random.random() < 0.7 else b""
    return b"".join(b"data: " + encode_json(event) + b"\n\n" for event in events) + end

"""JSON schemas for providers that know only JSON, or not even that.

The schema goes into the prompt.  The answer is held back until it is complete, and checked.  One
that does not fit is asked for once more, with what is wrong with it; a second one that does not
fit either is given as it is, and ``metadata.schema_error`` on the message says why, since a client
may still make something of it.  Calls, refusals and cut answers are nobody's JSON and pass.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import orjson

from forwarder.core.errors import ForwarderError
from forwarder.core.types import Batch, Call, Json, Stream
from forwarder.core.validate import DICT, STR, optional
from forwarder.middleware import json_schema_validation
from forwarder.middleware.usage_estimate import summed
from forwarder.protocols import unfold
from forwarder.protocols.fold import fold_chat

_SIGN_OF_LIFE = 5.0
"""Seconds after which a client that waits for a held answer hears that there will be one."""


def with_schema(call: Call, level: str, max_steps: int = json_schema_validation.MAX_STEPS) -> Call:
    """Wrap a chat call whose upstream knows ``response_format`` up to ``level``.

    An answer whose check takes more than ``max_steps`` is given unchecked, and says so.
    Of ``json_object`` and ``none`` the lack is made up for here; of every other level nothing is.
    """
    if level not in ("json_object", "none"):
        return call

    def fitting(request: Json) -> Stream:
        wanted = _wanted(request, level, max_steps)
        if wanted is None:
            return call(request)
        inner = _prompted(request, wanted, level)
        return _checked(call(inner), call, inner, wanted)

    return fitting


class Wanted(NamedTuple):
    """What the answer has to be: the schema, and its name and description where it has them."""

    schema: Json
    max_steps: int
    name: str = ""
    description: str = ""


_NAMING = ("name", "description")


def _wanted(request: Json, level: str, max_steps: int) -> Wanted | None:
    response_format = optional(request, "response_format", DICT, "response_format") or {}
    kind = response_format.get("type")
    if kind == "json_object" and level == "none":
        return Wanted({"type": "object"}, max_steps)
    if kind != "json_schema":
        return None
    path = "response_format.json_schema"
    described = optional(response_format, "json_schema", DICT, path) or {}
    schema = optional(described, "schema", DICT, f"{path}.schema") or {"type": "object"}
    json_schema_validation.check(schema, f"{path}.schema", max_steps)
    named = (optional(described, name, STR, f"{path}.{name}") or "" for name in _NAMING)
    return Wanted(schema, max_steps, *named)


# -- the request --------------------------------------------------------------------------------


def _prompted(request: Json, wanted: Wanted, level: str) -> Json:
    """The request with the schema in its prompt and a format that the provider knows."""
    inner = {k: v for k, v in request.items() if k != "response_format"}
    if level == "json_object":
        inner["response_format"] = {"type": "json_object"}
    messages = request.get("messages")
    if isinstance(messages, list):
        inner["messages"] = _instructed(messages, _instruction(wanted))
    return inner


def _instructed(messages: list[Any], instruction: str) -> list[Any]:
    """The instruction comes after the client's own, so that the head of every turn is the same."""
    head = 0
    while head < len(messages) and _is_system(messages[head]):
        head += 1
    return [*messages[:head], {"role": "system", "content": instruction}, *messages[head:]]


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def _instruction(wanted: Wanted) -> str:
    about = ": ".join(filter(None, (wanted.name, wanted.description)))
    return (
        "Answer with JSON alone, without any text or code fence around it"
        f"{f' ({about})' if about else ''}. The JSON must be valid against this JSON Schema:\n"
        f"{orjson.dumps(wanted.schema).decode()}"
    )


def _again(request: Json, said: str, wrong: str) -> Json:
    """The request with the answer that does not fit, and what is wrong with it."""
    correction = f"This does not fit the JSON Schema: {wrong}\nAnswer again, with the JSON alone."
    said_and_corrected = [
        {"role": "assistant", "content": said},
        {"role": "user", "content": correction},
    ]
    return {**request, "messages": [*request["messages"], *said_and_corrected]}


# -- the answer ---------------------------------------------------------------------------------


def _checked(stream: Stream, call: Call, request: Json, wanted: Wanted) -> Stream:
    answer = fold_chat(iter((yield from _held(stream))))
    wrong = _fit(answer, wanted)
    if wrong:
        try:
            second = fold_chat(iter((yield from _held(call(_again(request, *wrong))))))
        except ForwarderError:
            _mark(answer, wrong)  # the first answer is better than none
        else:
            answer = _with_both_usages(second, answer)
            if wrong := _fit(answer, wanted):
                _mark(answer, wrong)
    yield _in_one_piece(answer) if request.get("stream") else [answer]


def _held(stream: Stream) -> Any:
    """Gives all batches of a stream back; yields empty ones meanwhile, while it is silent too."""
    held: list[Batch] = []
    told = time.monotonic()
    for batch in stream:
        held.append(batch)
        now = time.monotonic()
        if not batch or now - told > _SIGN_OF_LIFE:
            told = now
            yield []
    return held


def _fit(answer: Json, wanted: Wanted) -> tuple[str, str] | None:
    """Make every choice the bare JSON; give the first text that does not fit, and why."""
    for choice in answer["choices"]:
        message = choice["message"]
        if choice.get("finish_reason") not in ("stop", None) or not isinstance(
            message.get("content"), str
        ):
            continue
        thought, bare = _parted(message["content"])
        try:
            wrong = json_schema_validation.mistake(bare, wanted.schema, wanted.max_steps)
        except json_schema_validation.TooManySteps:
            wrong = None
            _note_error(
                message,
                f"not checked: that takes more than {wanted.max_steps} steps "
                "(limit: FORWARDER_MAX_SCHEMA_NODES)",
            )
        if wrong:
            return message["content"], wrong
        message["content"] = bare
        if thought:
            message.setdefault("reasoning_content", thought)
    return None


def _parted(text: str) -> tuple[str, str]:
    """A thought in front of the JSON, and the JSON without what models put around it."""
    thought, bare = "", text.strip()
    if bare.startswith("<think>"):
        thought, _, bare = bare.removeprefix("<think>").partition("</think>")
        bare = bare.strip()
    if bare.startswith("```") and bare.endswith("```"):
        bare = bare.strip("`").removeprefix("json").strip()
    return thought, bare


def _mark(answer: Json, wrong: tuple[str, str]) -> None:
    for choice in answer["choices"]:
        if choice["message"].get("content") == wrong[0]:
            _note_error(choice["message"], wrong[1])


def _note_error(message: Json, error: str) -> None:
    message["metadata"] = {**(message.get("metadata") or {}), "schema_error": error}


def _with_both_usages(answer: Json, earlier: Json) -> Json:
    """Both attempts were paid for."""
    usages = [one["usage"] for one in (earlier, answer) if one.get("usage")]
    return {**answer, "usage": summed(usages, prompts=True)} if usages else answer


def _in_one_piece(answer: Json) -> Batch:
    """A chunk for each choice and one for the usage."""
    usage = answer.get("usage")
    [chunk] = unfold.events(
        "chat", {k: v for k, v in answer.items() if k != "usage"}, streamed=True
    )
    chunks = [{**chunk, "choices": [choice]} for choice in chunk["choices"]]
    return [*chunks, {**chunk, "choices": [], "usage": usage}] if usage else chunks

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
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.core.validate import DICT, STR, read_field
from forwarder.middleware import json_schema_validation
from forwarder.middleware.usage_estimate import sum_usages
from forwarder.protocols import unfold
from forwarder.protocols.fold import fold_chat

HEARTBEAT_SECONDS = 5.0
"""Seconds after which a client that waits for a held answer hears that there will be one."""


def with_json_schema(
    handler: Handler, level: str, max_steps: int = json_schema_validation.MAX_STEPS
) -> Handler:
    """Wrap a chat call whose upstream knows ``response_format`` up to ``level``.

    An answer whose check takes more than ``max_steps`` is given unchecked, and says so.
    Of ``json_object`` and ``none`` the lack is made up for here; of every other level nothing is.
    """
    if level not in ("json_object", "none"):
        return handler

    def handle_request(request: Json) -> EventStream:
        wanted = read_required_schema(request, level, max_steps)
        if wanted is None:
            return handler(request)
        inner = add_schema_prompt(request, wanted, level)
        return validate_answer(handler(inner), handler, inner, wanted)

    return handle_request


class RequiredSchema(NamedTuple):
    """What the answer has to be: the schema, and its name and description where it has them."""

    schema: Json
    max_steps: int
    name: str = ""
    description: str = ""


_DESCRIPTION_FIELDS = ("name", "description")


def read_required_schema(request: Json, level: str, max_steps: int) -> RequiredSchema | None:
    response_format = read_field(request, "response_format", DICT, "response_format") or {}
    kind = response_format.get("type")
    if kind == "json_object" and level == "none":
        return RequiredSchema({"type": "object"}, max_steps)
    if kind != "json_schema":
        return None
    path = "response_format.json_schema"
    described = read_field(response_format, "json_schema", DICT, path) or {}
    schema = read_field(described, "schema", DICT, f"{path}.schema") or {"type": "object"}
    json_schema_validation.check_schema(schema, f"{path}.schema", max_steps)
    named = (
        read_field(described, name, STR, f"{path}.{name}") or "" for name in _DESCRIPTION_FIELDS
    )
    return RequiredSchema(schema, max_steps, *named)


# -- the request --------------------------------------------------------------------------------


def add_schema_prompt(request: Json, wanted: RequiredSchema, level: str) -> Json:
    """The request with the schema in its prompt and a format that the provider knows."""
    inner = {k: v for k, v in request.items() if k != "response_format"}
    if level == "json_object":
        inner["response_format"] = {"type": "json_object"}
    messages = request.get("messages")
    if isinstance(messages, list):
        inner["messages"] = insert_instruction(messages, make_instruction(wanted))
    return inner


def insert_instruction(messages: list[Any], instruction: str) -> list[Any]:
    """The instruction comes after the client's own, so that the head of every turn is the same."""
    head = 0
    while head < len(messages) and is_system_message(messages[head]):
        head += 1
    return [*messages[:head], {"role": "system", "content": instruction}, *messages[head:]]


def is_system_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def make_instruction(wanted: RequiredSchema) -> str:
    about = ": ".join(filter(None, (wanted.name, wanted.description)))
    return (
        "Answer with JSON alone, without any text or code fence around it"
        f"{f' ({about})' if about else ''}. The JSON must be valid against this JSON Schema:\n"
        f"{orjson.dumps(wanted.schema).decode()}"
    )


def make_retry_request(request: Json, said: str, wrong: str) -> Json:
    """The request with the answer that does not fit, and what is wrong with it."""
    correction = f"This does not fit the JSON Schema: {wrong}\nAnswer again, with the JSON alone."
    said_and_corrected = [
        {"role": "assistant", "content": said},
        {"role": "user", "content": correction},
    ]
    return {**request, "messages": [*request["messages"], *said_and_corrected]}


# -- the answer ---------------------------------------------------------------------------------


def validate_answer(
    stream: EventStream, handler: Handler, request: Json, wanted: RequiredSchema
) -> EventStream:
    answer = fold_chat(iter((yield from collect_batches(stream))))
    wrong = check_choices(answer, wanted)
    if wrong:
        try:
            second = fold_chat(
                iter((yield from collect_batches(handler(make_retry_request(request, *wrong)))))
            )
        except ForwarderError:
            mark_mismatch(answer, wrong)  # the first answer is better than none
        else:
            answer = add_earlier_usage(second, answer)
            if wrong := check_choices(answer, wanted):
                mark_mismatch(answer, wrong)
    yield to_chunks(answer) if request.get("stream") else [answer]


def collect_batches(stream: EventStream) -> Any:
    """Gives all batches of a stream back; yields empty ones meanwhile, while it is silent too."""
    held: list[Batch] = []
    told = time.monotonic()
    for batch in stream:
        held.append(batch)
        now = time.monotonic()
        if not batch or now - told > HEARTBEAT_SECONDS:
            told = now
            yield []
    return held


def check_choices(answer: Json, wanted: RequiredSchema) -> tuple[str, str] | None:
    """Make every choice the bare JSON; give the first text that does not fit, and why."""
    for choice in answer["choices"]:
        message = choice["message"]
        if choice.get("finish_reason") not in ("stop", None) or not isinstance(
            message.get("content"), str
        ):
            continue
        thought, bare = extract_json(message["content"])
        try:
            wrong = json_schema_validation.find_mistake(bare, wanted.schema, wanted.max_steps)
        except json_schema_validation.TooManySteps:
            wrong = None
            set_schema_error(
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


def extract_json(text: str) -> tuple[str, str]:
    """A thought in front of the JSON, and the JSON without what models put around it."""
    thought, bare = "", text.strip()
    if bare.startswith("<think>"):
        thought, _, bare = bare.removeprefix("<think>").partition("</think>")
        bare = bare.strip()
    if bare.startswith("```") and bare.endswith("```"):
        bare = bare.strip("`").removeprefix("json").strip()
    return thought, bare


def mark_mismatch(answer: Json, wrong: tuple[str, str]) -> None:
    for choice in answer["choices"]:
        if choice["message"].get("content") == wrong[0]:
            set_schema_error(choice["message"], wrong[1])


def set_schema_error(message: Json, error: str) -> None:
    message["metadata"] = {**(message.get("metadata") or {}), "schema_error": error}


def add_earlier_usage(answer: Json, earlier: Json) -> Json:
    """Both attempts were paid for."""
    usages = [one["usage"] for one in (earlier, answer) if one.get("usage")]
    return {**answer, "usage": sum_usages(usages, prompts=True)} if usages else answer


def to_chunks(answer: Json) -> Batch:
    """A chunk for each choice and one for the usage."""
    usage = answer.get("usage")
    [chunk] = unfold.unfold_answer(
        "chat", {k: v for k, v in answer.items() if k != "usage"}, streamed=True
    )
    chunks = [{**chunk, "choices": [choice]} for choice in chunk["choices"]]
    return [*chunks, {**chunk, "choices": [], "usage": usage}] if usage else chunks

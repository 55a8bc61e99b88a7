"""Emulates ``response_format`` JSON schemas for providers without them.

The middleware adds the schema to the prompt, collects the whole answer and validates it. If the
answer does not match, the model is asked once more with the validation error. If the second answer
does not match either, the client gets it with the reason in ``metadata.schema_error``, because it
may still be usable. Tool calls, refusals and truncated answers are not validated.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import orjson

from forwarder.core.errors import ForwarderError
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.core.validate import DICT, STR, read_field
from forwarder.middleware.usage_estimate import sum_usages
from forwarder.protocols import unfold
from forwarder.protocols.fold import fold_chat


def with_json_schema(handler: Handler, level: str, max_steps: int) -> Handler:
    """Wrap a chat handler whose upstream supports ``response_format`` up to ``level``.

    The levels ``json_object`` and ``none`` are emulated here; for others ``handler`` is returned.
    If validation takes more than ``max_steps``, the answer is passed on unchecked with a
    ``schema_error``.
    """
    if level not in ("json_object", "none"):
        return handler

    def handle_request(request: Json) -> EventStream:
        required = read_required_schema(request, level, max_steps)
        if required is None:
            return handler(request)
        inner = add_schema_prompt(request, required, level)
        return validate_answer(handler(inner), handler, inner, required)

    return handle_request


def load_validation() -> ModuleType:
    """Import the validation: few upstreams need it, and its libraries are large."""
    from forwarder.middleware import json_schema_validation

    return json_schema_validation


class RequiredSchema(NamedTuple):
    """The schema of the answer, the budget to check it, and the schema's name and description."""

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
    load_validation().check_schema(schema, f"{path}.schema", max_steps)
    description = (
        read_field(described, name, STR, f"{path}.{name}") or "" for name in _DESCRIPTION_FIELDS
    )
    return RequiredSchema(schema, max_steps, *description)


# -- the request --------------------------------------------------------------------------------


def add_schema_prompt(request: Json, required: RequiredSchema, level: str) -> Json:
    """Return the request with the schema in its prompt and a format that the provider supports."""
    inner = {k: v for k, v in request.items() if k != "response_format"}
    if level == "json_object":
        inner["response_format"] = {"type": "json_object"}
    messages = request.get("messages")
    if isinstance(messages, list):
        inner["messages"] = insert_instruction(messages, make_instruction(required))
    return inner


def insert_instruction(messages: list[Any], instruction: str) -> list[Any]:
    """Insert the instruction after the leading system messages.

    The start of the prompt is then the same in every turn, so that prompt caches match.
    """
    head = 0
    while head < len(messages) and is_system_message(messages[head]):
        head += 1
    return [*messages[:head], {"role": "system", "content": instruction}, *messages[head:]]


def is_system_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def make_instruction(required: RequiredSchema) -> str:
    about = ": ".join(filter(None, (required.name, required.description)))
    return (
        "Answer with JSON alone, without any text or code fence around it"
        f"{f' ({about})' if about else ''}. The JSON must be valid against this JSON Schema:\n"
        f"{orjson.dumps(required.schema).decode()}"
    )


def make_retry_request(request: Json, answer: str, reason: str) -> Json:
    """Return the request with the mismatching answer and the validation error appended."""
    correction = f"This does not fit the JSON Schema: {reason}\nAnswer again, with the JSON alone."
    messages = [
        *request["messages"],
        {"role": "assistant", "content": answer},
        {"role": "user", "content": correction},
    ]
    return {**request, "messages": messages}


# -- the answer ---------------------------------------------------------------------------------


def validate_answer(
    stream: EventStream, handler: Handler, request: Json, required: RequiredSchema
) -> EventStream:
    answer = fold_chat(iter((yield from collect_batches(stream))))
    mismatch = extract_and_check_choices(answer, required)
    if mismatch:
        try:
            second = fold_chat(
                iter((yield from collect_batches(handler(make_retry_request(request, *mismatch)))))
            )
        except ForwarderError:
            mark_mismatch(answer, mismatch)  # a mismatching answer is better than an error
        else:
            usages = [one["usage"] for one in (answer, second) if one.get("usage")]
            answer = {**second, "usage": sum_usages(usages, prompts=True)} if usages else second
            if mismatch := extract_and_check_choices(answer, required):
                mark_mismatch(answer, mismatch)
    yield to_chunks(answer) if request.get("stream") else [answer]


def collect_batches(stream: EventStream) -> Any:
    """Return all batches of a stream; yield its heartbeats to keep the client waiting."""
    batches: list[Batch] = []
    for batch in stream:
        if batch:
            batches.append(batch)
        else:
            yield []
    return batches


def extract_and_check_choices(answer: Json, required: RequiredSchema) -> tuple[str, str] | None:
    """Reduce every choice to its JSON in place; return the first mismatching text and the reason.

    Returns ``None`` if all choices match.
    """
    for choice in answer["choices"]:
        message = choice["message"]
        if choice.get("finish_reason") not in ("stop", None) or not isinstance(
            message.get("content"), str
        ):
            continue
        thought, bare = extract_json(message["content"])
        validation = load_validation()
        try:
            mistake = validation.find_mistake(bare, required.schema, required.max_steps)
        except validation.TooManySteps:
            mistake = None
            set_schema_error(
                message,
                f"not checked: the check takes more than {required.max_steps} steps "
                "(limit: FORWARDER_MAX_SCHEMA_NODES)",
            )
        if mistake:
            return message["content"], mistake
        message["content"] = bare
        if thought:
            message.setdefault("reasoning_content", thought)
    return None


def extract_json(text: str) -> tuple[str, str]:
    """Return leading ``<think>`` text and the JSON without a code fence around it."""
    thought, bare = "", text.strip()
    if bare.startswith("<think>"):
        thought, _, bare = bare.removeprefix("<think>").partition("</think>")
        bare = bare.strip()
    if bare.startswith("```") and bare.endswith("```"):
        bare = bare.strip("`").removeprefix("json").strip()
    return thought, bare


def mark_mismatch(answer: Json, mismatch: tuple[str, str]) -> None:
    text, reason = mismatch
    for choice in answer["choices"]:
        if choice["message"].get("content") == text:
            set_schema_error(choice["message"], reason)


def set_schema_error(message: Json, error: str) -> None:
    message["metadata"] = {**(message.get("metadata") or {}), "schema_error": error}


def to_chunks(answer: Json) -> Batch:
    """Return one chunk for each choice and one for the usage."""
    usage = answer.get("usage")
    [chunk] = unfold.unfold_answer(
        "chat", {k: v for k, v in answer.items() if k != "usage"}, streamed=True
    )
    chunks = [{**chunk, "choices": [choice]} for choice in chunk["choices"]]
    return [*chunks, {**chunk, "choices": [], "usage": usage}] if usage else chunks

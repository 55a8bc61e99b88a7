"""OpenAI's rules for the history in a Responses request: pairs, ids, reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from .answers import SEALED, Json
from .history import CALLS, OUTPUTS, Turn, as_items
from .shape import Violation, make_missing_error
from .strict_tools import check_name

PREFIXES = {"function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}
"""Type of an item -> prefix of its id."""


def check_pairs(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check that every call has its output, and every output a call before it."""
    stored_items = turns.get(str(body.get("previous_response_id")), Turn()).items
    unanswered_calls: dict[tuple[str, object], Json] = {}
    for item in [*stored_items, *as_items(body.get("input"))]:
        kind = item.get("type") or "message"
        if kind in CALLS:
            unanswered_calls[CALLS[kind], _call_id(item)] = item
        elif kind in OUTPUTS and not unanswered_calls.pop((kind, _call_id(item)), None):
            name = kind.removesuffix("_output").replace("_", " ")
            text = f"No tool call found for {name} output with call_id {_call_id(item)}."
            yield Violation(text, "input")
    for output, call_id in unanswered_calls:
        name = output.removesuffix("_output").replace("_", " ")
        yield Violation(f"No tool output found for {name} {call_id}.", "input")


def _call_id(item: Json) -> object:
    return item.get("id" if item["type"] == "local_shell_call_output" else "call_id")


def check_ids(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check that ids have their prefix and are unique, and that referenced items are known."""
    items = as_items(body.get("input"))
    if any(type(item.get("id", "")) not in (str, type(None)) for item in items):
        # The SDK's types of some items allow any id.
        yield Violation(
            "Invalid type for 'input': expected a string as id.", "input", "invalid_type"
        )
        return
    stored_ids = {
        item["id"] for turn in list(turns.values()) for item in turn.items if "id" in item
    }
    for number, item in enumerate(items):
        name, path = item.get("id"), f"input[{number}].id"
        prefix = PREFIXES.get(item.get("type", ""))
        if name and prefix and not name.startswith(prefix):
            text = f"Expected an ID that begins with '{prefix}'."
            yield Violation(f"Invalid '{path}': '{name}'. {text}", path, "invalid_value")
        if _is_reference(item, body) and name not in stored_ids:
            text = "Items are not persisted when `store` is set to false."
            yield Violation(f"Item with id '{name}' not found. {text}", "input")
    for name, count in Counter(item["id"] for item in items if item.get("id")).items():
        if count > 1:
            yield Violation(f"Duplicate item found with id {name}.", "input")


def _is_reference(item: Json, body: Json) -> bool:
    """Return whether the item only refers to a stored item by its id."""
    if item.get("type") == "reasoning":
        return not item.get("encrypted_content")
    return "role" not in item and item.get("type") in (None, "item_reference")


def check_reasoning(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check that this provider can decrypt reasoning, and that its output follows it."""
    items = as_items(body.get("input"))
    for number, item in enumerate(items):
        if item.get("type") != "reasoning":
            continue
        encrypted_content = item.get("encrypted_content")
        if encrypted_content and not encrypted_content.startswith(SEALED):
            text = f"The encrypted content {encrypted_content[:12]}... could not be verified."
            yield Violation(text, f"input[{number}]", "invalid_encrypted_content")
        next_item = items[number + 1] if number + 1 < len(items) else {}
        if next_item.get("role") != "assistant" and next_item.get("type") not in {
            *CALLS,
            "reasoning",
        }:
            text = "of type 'reasoning' was provided without its required following item."
            yield Violation(f"Item '{item.get('id')}' {text}", "input")


def check_names(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check names and ids of the calls in the history."""
    for number, item in enumerate(as_items(body.get("input"))):
        kind = item.get("type")
        if kind in PREFIXES and "name" in item:
            yield from check_name(item["name"], f"input[{number}].name")
        if kind in {*CALLS, *OUTPUTS} and not _call_id(item):
            yield make_missing_error(f"input[{number}].call_id")


RULES: Sequence[Callable[[Json, Mapping[str, Turn]], Iterator[Violation]]] = (
    check_pairs,
    check_ids,
    check_reasoning,
    check_names,
)
"""Checks of requests whose types are correct."""

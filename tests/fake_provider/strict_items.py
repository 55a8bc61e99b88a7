"""OpenAI's rules for the history in a Responses request: pairs, ids, reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from .answers import SEALED, Json
from .history import CALLS, OUTPUTS, Turn, as_items
from .shape import Violation, make_missing_error
from .strict_tools import name_violations

PREFIXES = {"function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}
"""Type of an item -> how its id begins."""


def check_pairs(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Every call has its output, and every output a call before it."""
    earlier = turns.get(str(body.get("previous_response_id")), Turn()).items
    waiting: dict[tuple[str, object], Json] = {}
    for item in [*earlier, *as_items(body.get("input"))]:
        kind = item.get("type") or "message"
        if kind in CALLS:
            waiting[CALLS[kind], _call_id(item)] = item
        elif kind in OUTPUTS and not waiting.pop((kind, _call_id(item)), None):
            name = kind.removesuffix("_output").replace("_", " ")
            said = f"No tool call found for {name} output with call_id {_call_id(item)}."
            yield Violation(said, "input")
    for output, call_id in waiting:
        name = output.removesuffix("_output").replace("_", " ")
        yield Violation(f"No tool output found for {name} {call_id}.", "input")


def _call_id(item: Json) -> object:
    return item.get("id" if item["type"] == "local_shell_call_output" else "call_id")


def check_ids(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Ids have their prefix and stand once; an item with nothing but an id must be known."""
    items = as_items(body.get("input"))
    if any(type(item.get("id", "")) not in (str, type(None)) for item in items):
        # the SDK's types of some items leave their id open
        yield Violation(
            "Invalid type for 'input': expected a string as id.", "input", "invalid_type"
        )
        return
    known = {item["id"] for turn in list(turns.values()) for item in turn.items if "id" in item}
    for number, item in enumerate(items):
        name, where = item.get("id"), f"input[{number}].id"
        prefix = PREFIXES.get(item.get("type", ""))
        if name and prefix and not name.startswith(prefix):
            said = f"Expected an ID that begins with '{prefix}'."
            yield Violation(f"Invalid '{where}': '{name}'. {said}", where, "invalid_value")
        if _is_reference(item, body) and name not in known:
            said = "Items are not persisted when `store` is set to false."
            yield Violation(f"Item with id '{name}' not found. {said}", "input")
    for name, count in Counter(item["id"] for item in items if item.get("id")).items():
        if count > 1:
            yield Violation(f"Duplicate item found with id {name}.", "input")


def _is_reference(item: Json, body: Json) -> bool:
    """Whether the item can only be understood by looking its id up."""
    if item.get("type") == "reasoning":
        return not item.get("encrypted_content")
    return "role" not in item and item.get("type") in (None, "item_reference")


def check_reasoning(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Reasoning is readable by this provider, and followed by its output."""
    items = as_items(body.get("input"))
    for number, item in enumerate(items):
        if item.get("type") != "reasoning":
            continue
        sealed = item.get("encrypted_content")
        if sealed and not sealed.startswith(SEALED):
            said = f"The encrypted content {sealed[:12]}... could not be verified."
            yield Violation(said, f"input[{number}]", "invalid_encrypted_content")
        after = items[number + 1] if number + 1 < len(items) else {}
        if after.get("role") != "assistant" and after.get("type") not in {*CALLS, "reasoning"}:
            said = "of type 'reasoning' was provided without its required following item."
            yield Violation(f"Item '{item.get('id')}' {said}", "input")


def check_names(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Names and ids of the calls in the history."""
    for number, item in enumerate(as_items(body.get("input"))):
        kind = item.get("type")
        if kind in PREFIXES and "name" in item:
            yield from name_violations(item["name"], f"input[{number}].name")
        if kind in {*CALLS, *OUTPUTS} and not _call_id(item):
            yield make_missing_error(f"input[{number}].call_id")


RULES: Sequence[Callable[[Json, Mapping[str, Turn]], Iterator[Violation]]] = (
    check_pairs,
    check_ids,
    check_reasoning,
    check_names,
)
"""What is looked at once all is of the right type."""

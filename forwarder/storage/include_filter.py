"""Fields of stored responses that are only shown if ``include`` asks for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from forwarder.core.types import Batch, Event, Json
from forwarder.core.validate import check_enum
from forwarder.protocols.chat_reasoning import is_seal
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.tool_secrets import hide_tool_secrets_of

INCLUDE_PARAMETER = re.compile(r"include(\[\d*\])?")


def drop_field(item: Json, name: str) -> Json:
    return {k: v for k, v in item.items() if k != name}


def clear_field(item: Json, name: str) -> Json:
    """Set a field to null; clients expect the key to be present."""
    return {**item, name: None} if name in item else item


def change_nested(item: Json, name: str, change: Callable[[Json], Json]) -> Json:
    """Apply ``change`` to a nested object, or to each object of a nested list."""
    value = item.get(name)
    if isinstance(value, dict):
        return {**item, name: change(value)}
    if isinstance(value, list):
        return {**item, name: [change(v) if isinstance(v, dict) else v for v in value]}
    return item


def clear_image_url(part: Json) -> Json:
    return clear_field(part, "image_url") if part.get("type") == "input_image" else part


def clear_logprobs(part: Json) -> Json:
    return {**part, "logprobs": []} if part.get("logprobs") else part


HIDDEN_FIELDS: dict[str, Callable[[Json], Json]] = {
    "file_search_call.results": lambda item: clear_field(item, "results"),
    "web_search_call.results": lambda item: drop_field(item, "results"),
    "web_search_call.action.sources": lambda item: change_nested(
        item, "action", lambda action: drop_field(action, "sources")
    ),
    "message.input_image.image_url": lambda item: change_nested(item, "content", clear_image_url),
    "computer_call_output.output.image_url": lambda item: change_nested(
        item, "output", lambda output: drop_field(output, "image_url")
    ),
    "code_interpreter_call.outputs": lambda item: clear_field(item, "outputs"),
    INCLUDE_ENCRYPTED_REASONING: lambda item: drop_field(item, "encrypted_content"),
    "message.output_text.logprobs": lambda item: change_nested(item, "content", clear_logprobs),
}
"""``include`` value -> function that removes the field. The part before the first dot is the item
type.
"""


def wants_encrypted_reasoning(request: Json) -> bool:
    """Whether a request asks to include encrypted reasoning."""
    include = request.get("include")
    return isinstance(include, list) and INCLUDE_ENCRYPTED_REASONING in include


def hide_event_reasoning(event: Event) -> Event:
    """Remove reasoning that was encrypted only for the database from an event."""
    response = event.get("response")
    if not response or not any(map(is_own_reasoning, response.get("output") or ())):
        return event
    return {
        **event,
        "response": change_nested(drop_bare_reasoning(response), "output", drop_own_token),
    }


def hide_batch_reasoning(batch: Batch) -> Batch:
    """Apply `hide_event_reasoning` to each event of a batch."""
    return [hide_event_reasoning(event) for event in batch]


def is_own_reasoning(item: Json) -> bool:
    return item.get("type") == "reasoning" and is_seal(item.get("encrypted_content"))


def drop_own_token(item: Json) -> Json:
    return drop_field(item, "encrypted_content") if is_own_reasoning(item) else item


def drop_bare_reasoning(response: Json) -> Json:
    """Remove reasoning items without visible content; they were not streamed."""
    output = response.get("output")
    if not isinstance(output, list) or not any(map(is_bare_reasoning, output)):
        return response
    return {**response, "output": [item for item in output if not is_bare_reasoning(item)]}


def is_bare_reasoning(item: Json) -> bool:
    return is_own_reasoning(item) and not (item.get("summary") or item.get("content"))


class IncludeFilter:
    """Removes the fields that a request did not include."""

    def __init__(self, query: Iterable[tuple[str, str]]) -> None:
        """``query`` has the (name, value) pairs of the URL's query. Raises InvalidRequest."""
        included = [value for name, value in query if INCLUDE_PARAMETER.fullmatch(name)]
        for i, value in enumerate(included):
            check_enum(value, tuple(HIDDEN_FIELDS), f"include[{i}]")
        self._hidden_fields = {
            name: hide for name, hide in HIDDEN_FIELDS.items() if name not in included
        }

    def filter_item(self, item: Json) -> Json:
        """Return an item without the hidden fields."""
        kind = item.get("type") or "message"
        for name, hide in self._hidden_fields.items():
            if name.startswith(f"{kind}."):
                item = hide(item)
        return hide_tool_secrets_of(item)  # in ``additional_tools`` items

    def filter_response(self, response: Json) -> Json:
        """Return a response without the hidden fields."""
        if INCLUDE_ENCRYPTED_REASONING in self._hidden_fields:
            response = drop_bare_reasoning(response)
        # Earlier versions stored tools with their credentials.
        return change_nested(hide_tool_secrets_of(response), "output", self.filter_item)

    def filter_batch(self, batch: Batch) -> Batch:
        """Return events without the hidden fields."""
        return [self._filter_event(event) for event in batch]

    def _filter_event(self, event: Event) -> Event:
        event = change_nested(
            change_nested(event, "item", self.filter_item), "response", self.filter_response
        )
        if "message.output_text.logprobs" in self._hidden_fields:
            event = change_nested(clear_logprobs(event), "part", clear_logprobs)
        return event

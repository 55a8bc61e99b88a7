"""What a stored response shows only to those who ask for it by ``include``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from forwarder.core.types import Batch, Event, Json
from forwarder.core.validate import choose
from forwarder.protocols.chat_reasoning import is_own
from forwarder.protocols.mappings import SEALED
from forwarder.protocols.tool_secrets import hide_tool_secrets_of

_NAME = re.compile(r"include(\[\d*\])?")


def _without(item: Json, name: str) -> Json:
    return {k: v for k, v in item.items() if k != name}


def _emptied(item: Json, name: str) -> Json:
    """Clients find null there, not nothing."""
    return {**item, name: None} if name in item else item


def _inside(item: Json, name: str, change: Callable[[Json], Json]) -> Json:
    """An item with an object of it changed, or with each object of a list."""
    value = item.get(name)
    if isinstance(value, dict):
        return {**item, name: change(value)}
    if isinstance(value, list):
        return {**item, name: [change(v) if isinstance(v, dict) else v for v in value]}
    return item


def _without_image(part: Json) -> Json:
    return _emptied(part, "image_url") if part.get("type") == "input_image" else part


def _without_logprobs(part: Json) -> Json:
    return {**part, "logprobs": []} if part.get("logprobs") else part


_HIDDEN: dict[str, Callable[[Json], Json]] = {
    "file_search_call.results": lambda item: _emptied(item, "results"),
    "web_search_call.results": lambda item: _without(item, "results"),
    "web_search_call.action.sources": lambda item: _inside(
        item, "action", lambda action: _without(action, "sources")
    ),
    "message.input_image.image_url": lambda item: _inside(item, "content", _without_image),
    "computer_call_output.output.image_url": lambda item: _inside(
        item, "output", lambda output: _without(output, "image_url")
    ),
    "code_interpreter_call.outputs": lambda item: _emptied(item, "outputs"),
    SEALED: lambda item: _without(item, "encrypted_content"),
    "message.output_text.logprobs": lambda item: _inside(item, "content", _without_logprobs),
}
"""What can be asked for -> an item without it.  What stands before the first dot is its type."""


def shows_seals(request: Json) -> bool:
    """Does a request ask for sealed reasoning?"""
    include = request.get("include")
    return isinstance(include, list) and SEALED in include


def hide_seals(event: Event) -> Event:
    """An event without the reasoning that was sealed here for the store alone."""
    response = event.get("response")
    if not response or not any(map(_is_sealed_here, response.get("output") or ())):
        return event
    return {**event, "response": _inside(_without_seals_alone(response), "output", _without_own)}


def hide_seals_of(batch: Batch) -> Batch:
    """The same for each event of a batch."""
    return [hide_seals(event) for event in batch]


def _is_sealed_here(item: Json) -> bool:
    return item.get("type") == "reasoning" and is_own(item.get("encrypted_content"))


def _without_own(item: Json) -> Json:
    return _without(item, "encrypted_content") if _is_sealed_here(item) else item


def _without_seals_alone(response: Json) -> Json:
    """A response without items that are nothing but a seal: they were not streamed."""
    output = response.get("output")
    if not isinstance(output, list) or not any(map(_is_seal_alone, output)):
        return response
    return {**response, "output": [item for item in output if not _is_seal_alone(item)]}


def _is_seal_alone(item: Json) -> bool:
    return _is_sealed_here(item) and not (item.get("summary") or item.get("content"))


class Including:
    """Shows what was asked for, and nothing else that has to be asked for."""

    def __init__(self, query: Iterable[tuple[str, str]]) -> None:
        """``query`` has the names and values of a URL; raises InvalidRequest for unknown ones."""
        given = [value for name, value in query if _NAME.fullmatch(name)]
        for i, value in enumerate(given):
            choose(value, tuple(_HIDDEN), f"include[{i}]")
        self._hidden = {name: hide for name, hide in _HIDDEN.items() if name not in given}

    def item(self, item: Json) -> Json:
        """An item as it is to be shown."""
        kind = item.get("type") or "message"
        for name, hide in self._hidden.items():
            if name.startswith(f"{kind}."):
                item = hide(item)
        return hide_tool_secrets_of(item)  # those of ``additional_tools``

    def response(self, response: Json) -> Json:
        """A response as it is to be shown."""
        if SEALED in self._hidden:
            response = _without_seals_alone(response)
        # Earlier versions stored the tools as they came.
        return _inside(hide_tool_secrets_of(response), "output", self.item)

    def batch(self, batch: Batch) -> Batch:
        """Events as they are to be shown."""
        return [self._event(event) for event in batch]

    def _event(self, event: Event) -> Event:
        event = _inside(_inside(event, "item", self.item), "response", self.response)
        if "message.output_text.logprobs" in self._hidden:
            event = _inside(_without_logprobs(event), "part", _without_logprobs)
        return event

"""The reasoning of a Responses answer as one text, with one paragraph per part.

An upstream sends reasoning as text, as a summary or as both.  If an item has both, the text is
streamed and the summary is reported separately.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event, Json
from forwarder.protocols.chat_responses_mappings import make_non_text_error

_PART_INDEX_FIELDS = {"text": "content_index", "summary": "summary_index"}
"""Form of reasoning -> the event field with the index of the part."""


class ReasoningText:
    """The reasoning so far, by output item, form (``text`` or ``summary``) and part."""

    def __init__(self) -> None:
        # A place is the output index, the form and the index of a part.
        self._sent: dict[tuple[Any, ...], int] = {}  # place -> characters received
        self._texts: set[Any] = set()  # output indexes of reasoning that comes as text
        # Place of a summary -> the pieces of its text.  Joining them at every delta would be
        # quadratic.
        self._summaries: dict[tuple[Any, ...], list[str]] = {}

    def add_delta(self, event: Event, form: str) -> str:
        """Return the text that a delta adds to the shown reasoning."""
        place = (event.get("output_index"), form, event.get(_PART_INDEX_FIELDS[form]))
        return self._append_text(place, event.get("delta") or "")

    def finish_part(self, event: Event, form: str) -> str:
        """Return the text of a finished part that its deltas omitted."""
        place = (event.get("output_index"), form, event.get(_PART_INDEX_FIELDS[form]))
        rest = (event.get("text") or "")[self._sent.get(place, 0) :]
        return self._append_text(place, rest) if rest else ""

    def finish_item(self, index: Any, item: Json) -> str:
        """Return the text of a finished item that was not sent yet."""
        parts = (
            ({"output_index": index, _PART_INDEX_FIELDS[form]: i, "text": part.get("text")}, form)
            for form, name in (("text", "content"), ("summary", "summary"))
            for i, part in enumerate(item.get(name) or ())
        )
        return "".join(self.finish_part(event, form) for event, form in parts)

    def _append_text(self, place: tuple[Any, ...], delta: str) -> str:
        if type(delta) is not str:
            raise make_non_text_error()
        index, form, _ = place
        is_new_part = place not in self._sent
        self._sent[place] = self._sent.get(place, 0) + len(delta)
        if form == "text":
            self._texts.add(index)
        else:
            self._summaries.setdefault(place, []).append(delta)
            if index in self._texts:
                return ""
        return "\n\n" + delta if is_new_part and len(self._sent) > 1 else delta

    @property
    def output_indexes(self) -> set[Any]:
        """The output indexes of the reasoning items received."""
        return {place[0] for place in self._sent}

    @property
    def separate_summary(self) -> str:
        """The summaries of the items that also have a text."""
        summaries = (pieces for place, pieces in self._summaries.items() if place[0] in self._texts)
        return "\n\n".join(map("".join, summaries))

"""Which items of a conversation stay when the rest of it becomes a summary.

What anybody but the model said stays, as far as there is room, so that instructions and wishes
keep their words; what the model said, thought and did is in the summary.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.ids import Mint
from forwarder.core.translation_context import Ledger, Terms
from forwarder.core.types import Json
from forwarder.middleware.compaction.tokens import tokens_of
from forwarder.protocols.chat_reasoning import is_own

KEPT_TOKENS = 64_000
"""Room for what users said before a summary; the oldest of it falls away first."""

TRIGGER: Json = {"type": "compaction_trigger"}

_PREFIX = (
    "[Here the conversation was shortened. What you have said and done until here, "
    "in your own summary:]\n\n"
)
_FOREIGN = "what another compacted cannot be opened here"


def opened(request: Json, terms: Terms, native: bool) -> Json:
    """The request with its compaction items opened: the last one counts, and stands for the rest.

    One that cannot be opened is left out and noted; a native upstream gets those of its own.
    """
    items = request.get("input")
    if not isinstance(items, list) or not any(map(_is_compaction, items)):
        return request
    last, text = _open_last(items, terms)
    before = [item for item in items[: max(last, 0)] if not _is_compaction(item)]
    _note_lost(items, last, native, terms.ledger)
    summarized = [message(text)] if last >= 0 else []
    after = [item for i, item in enumerate(items) if i > last and _goes_on(item, native)]
    return {**request, "input": [*kept(before), *summarized, *after]}


def _open_last(items: list[Any], terms: Terms) -> tuple[int, str]:
    """The place of the last summary that can be opened, or -1, and its text.

    Those before it are not opened: each may be as large as the whole request.
    """
    for i in reversed(range(len(items))):
        text = _text_of(items[i], terms) if _is_compaction(items[i]) else None
        if text is not None:
            return i, text
    return -1, ""


def _note_lost(items: list[Any], last: int, native: bool, ledger: Ledger) -> None:
    """Note what cannot be opened: all behind the last that can be, and before it the foreign."""
    for i, item in enumerate(items):
        is_lost = i > last or not is_own(item.get("encrypted_content"))
        if _is_compaction(item) and is_lost and not _goes_on(item, native):
            ledger.drop("input.compaction", _FOREIGN)
            return


def _goes_on(item: Any, native: bool) -> bool:
    """Is this an item for the upstream?"""
    return not _is_compaction(item) or (native and not is_own(item.get("encrypted_content")))


def _is_compaction(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in ("compaction", "compaction_summary")


def _text_of(item: Json, terms: Terms) -> str | None:
    """The summary in an item that was sealed here."""
    sealed = item.get("encrypted_content")
    value = terms.unseal(sealed) if isinstance(sealed, str) else None
    text = value.get("compaction") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def is_trigger(item: Any) -> bool:
    """Is this item a demand to compact what is before it?"""
    return isinstance(item, dict) and item.get("type") == TRIGGER["type"]


def message(text: str) -> Json:
    """A summary as the model reads it."""
    content = [{"type": "input_text", "text": _PREFIX + text}]
    return {"type": "message", "role": "user", "content": content}


def kept(items: list[Any]) -> list[Json]:
    """Of the items before a summary those that stay beside it."""
    stay: list[Json] = []
    room = KEPT_TOKENS
    for item in reversed(items):
        if not _is_said_to_the_model(item):
            continue
        if item.get("role") == "user":
            room -= max(1, tokens_of(item.get("content")))
            if room < 0 and stay:
                continue
        stay.append(item)
    return stay[::-1]


def _is_said_to_the_model(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        return False
    return item.get("role") in ("user", "system", "developer")


def parted(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """What can be summarized, and the question after it that the model is yet to answer."""
    end = len(items)
    while end and _is_said_to_the_model(items[end - 1]):
        end -= 1
    return items[:end], items[end:]


def is_worth_it(items: list[Any]) -> bool:
    """Would a summary take the place of anything?"""
    return not all(map(_is_said_to_the_model, items))


def shown(items: list[Any], mint: Mint) -> list[Json]:
    """The items that stay, as the output of ``/responses/compact`` has them."""
    return [
        {
            **item,
            "type": "message",
            "id": item.get("id") or mint.id("msg"),
            "status": "completed",
            "content": _parts(item.get("content")),
        }
        for item in kept(items)
    ]


def _parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content

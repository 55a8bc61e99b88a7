"""Which items of a conversation stay when the rest of it becomes a summary.

What anybody but the model said stays, as far as there is room, so that instructions and wishes
keep their words; what the model said, thought and did is in the summary.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.ids import IdSource
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.middleware.compaction.tokens import estimate_item_tokens
from forwarder.protocols.chat_reasoning import is_own_token

MAX_KEPT_TOKENS = 64_000
"""Room for what users said before a summary; the oldest of it falls away first."""

TRIGGER_ITEM: Json = {"type": "compaction_trigger"}

_SUMMARY_PREFIX = (
    "[Here the conversation was shortened. What you have said and done until here, "
    "in your own summary:]\n\n"
)
_FOREIGN_REASON = "only its maker can decrypt it"


def open_compactions(request: Json, context: TranslationContext, native: bool) -> Json:
    """The request with its compaction items opened: the last one counts, and stands for the rest.

    One that cannot be opened is left out and noted; a native upstream gets those of its own.
    """
    items = request.get("input")
    if not isinstance(items, list) or not any(map(is_compaction, items)):
        return request
    last, text = open_last_compaction(items, context)
    before = [item for item in items[: max(last, 0)] if not is_compaction(item)]
    drop_unopened_compactions(items, last, native, context.loss_report)
    summarized = [make_summary_message(text)] if last >= 0 else []
    after = [item for i, item in enumerate(items) if i > last and is_for_upstream(item, native)]
    return {**request, "input": [*select_kept_items(before), *summarized, *after]}


def open_last_compaction(items: list[Any], context: TranslationContext) -> tuple[int, str]:
    """The place of the last summary that can be opened, or -1, and its text.

    Those before it are not opened: each may be as large as the whole request.
    """
    for i in reversed(range(len(items))):
        text = decrypt_summary(items[i], context) if is_compaction(items[i]) else None
        if text is not None:
            return i, text
    return -1, ""


def drop_unopened_compactions(
    items: list[Any], last: int, native: bool, loss_report: LossReport
) -> None:
    """Note what cannot be opened: all behind the last that can be, and before it the foreign."""
    for i, item in enumerate(items):
        is_lost = i > last or not is_own_token(item.get("encrypted_content"))
        if is_compaction(item) and is_lost and not is_for_upstream(item, native):
            loss_report.drop("input.compaction", _FOREIGN_REASON)
            return


def is_for_upstream(item: Any, native: bool) -> bool:
    """Is this an item for the upstream?"""
    return not is_compaction(item) or (native and not is_own_token(item.get("encrypted_content")))


def is_compaction(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in ("compaction", "compaction_summary")


def decrypt_summary(item: Json, context: TranslationContext) -> str | None:
    """The summary in an item that was sealed here."""
    sealed = item.get("encrypted_content")
    value = context.decrypt(sealed) if isinstance(sealed, str) else None
    text = value.get("compaction") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def is_compaction_trigger(item: Any) -> bool:
    """Is this item a demand to compact what is before it?"""
    return isinstance(item, dict) and item.get("type") == TRIGGER_ITEM["type"]


def make_summary_message(text: str) -> Json:
    """A summary as the model reads it."""
    content = [{"type": "input_text", "text": _SUMMARY_PREFIX + text}]
    return {"type": "message", "role": "user", "content": content}


def select_kept_items(items: list[Any]) -> list[Json]:
    """Of the items before a summary those that stay beside it."""
    stay: list[Json] = []
    room = MAX_KEPT_TOKENS
    for item in reversed(items):
        if not is_client_message(item):
            continue
        if item.get("role") == "user":
            room -= max(1, estimate_item_tokens(item.get("content")))
            if room < 0 and stay:
                continue
        stay.append(item)
    return stay[::-1]


def is_client_message(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        return False
    return item.get("role") in ("user", "system", "developer")


def split_open_question(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """What can be summarized, and the question after it that the model is yet to answer."""
    end = len(items)
    while end and is_client_message(items[end - 1]):
        end -= 1
    return items[:end], items[end:]


def has_model_items(items: list[Any]) -> bool:
    """Would a summary take the place of anything?"""
    return not all(map(is_client_message, items))


def make_compact_output(items: list[Any], id_source: IdSource) -> list[Json]:
    """The items that stay, as the output of ``/responses/compact`` has them."""
    return [
        {
            **item,
            "type": "message",
            "id": item.get("id") or id_source.new_id("msg"),
            "status": "completed",
            "content": _parts(item.get("content")),
        }
        for item in select_kept_items(items)
    ]


def _parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content

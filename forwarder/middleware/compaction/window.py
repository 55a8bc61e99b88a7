"""Selects the items that stay when a summary replaces the rest of a conversation.

Messages from the client stay within a limit, so that instructions keep their exact words. The
summary replaces the model's messages, reasoning and tool calls.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.ids import IdSource
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import is_seal
from forwarder.protocols.input_items import has_items_of, make_user_message
from forwarder.protocols.token_estimate import estimate_content_tokens

MAX_KEPT_TOKENS = 64_000
"""Estimated tokens of the user messages that stay before a summary; the newest ones stay."""

TRIGGER_ITEM: Json = {"type": "compaction_trigger"}

_COMPACTION_TYPES = ("compaction", "compaction_summary")

_SUMMARY_PREFIX = (
    "[Here the conversation was shortened. What you have said and done until here, "
    "in your own summary:]\n\n"
)
_FOREIGN_REASON = "only the server that made it can decrypt it"


def replace_compactions(request: Json, context: TranslationContext, native: bool) -> Json:
    """Return the request with the last decryptable compaction item replaced by its summary.

    The summary also replaces the items before it, except kept client messages. Compaction items
    that cannot be decrypted are dropped and reported; those of a native upstream stay.
    """
    items = request.get("input")
    if not isinstance(items, list) or not has_items_of(items, _COMPACTION_TYPES):
        return request
    last, text = decrypt_last_compaction(items, context)
    before = [item for item in items[: max(last, 0)] if not is_compaction(item)]
    report_lost_compactions(items, last, native, context.loss_report)
    summarized = [make_summary_message(text)] if last >= 0 else []
    after = [item for i, item in enumerate(items) if i > last and is_for_upstream(item, native)]
    return {**request, "input": [*select_kept_items(before), *summarized, *after]}


def decrypt_last_compaction(items: list[Any], context: TranslationContext) -> tuple[int, str]:
    """Return index and text of the last summary that can be decrypted, or index -1.

    Earlier summaries are not decrypted, because each may be as large as the whole request.
    """
    for i in reversed(range(len(items))):
        text = decrypt_summary(items[i], context) if is_compaction(items[i]) else None
        if text is not None:
            return i, text
    return -1, ""


def report_lost_compactions(
    items: list[Any], last: int, native: bool, loss_report: LossReport
) -> None:
    """Report compaction items that are lost: later than ``last``, or from another server."""
    for i, item in enumerate(items):
        is_lost = i > last or not is_seal(item.get("encrypted_content"))
        if is_compaction(item) and is_lost and not is_for_upstream(item, native):
            loss_report.drop("input.compaction", _FOREIGN_REASON)
            return


def is_for_upstream(item: Any, native: bool) -> bool:
    """Return whether an item is sent upstream: all but compactions the upstream cannot read."""
    return not is_compaction(item) or (native and not is_seal(item.get("encrypted_content")))


def is_compaction(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in _COMPACTION_TYPES


def decrypt_summary(item: Json, context: TranslationContext) -> str | None:
    """Return the summary in a compaction item of the forwarder; ``None`` for other items."""
    encrypted = item.get("encrypted_content")
    value = context.decrypt(encrypted) if isinstance(encrypted, str) else None
    text = value.get("compaction") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def is_compaction_trigger(item: Any) -> bool:
    """Return whether this item requests the compaction of the items before it."""
    return isinstance(item, dict) and item.get("type") == TRIGGER_ITEM["type"]


def make_summary_message(text: str) -> Json:
    """Return the message in which the model receives a summary."""
    content = [{"type": "input_text", "text": _SUMMARY_PREFIX + text}]
    return make_user_message(content)


def select_kept_items(items: list[Any]) -> list[Json]:
    """Return the items before a summary that stay in the conversation."""
    kept: list[Json] = []
    remaining = MAX_KEPT_TOKENS
    for item in reversed(items):
        if not is_client_message(item):
            continue
        if item.get("role") == "user":
            remaining -= max(1, estimate_content_tokens(item.get("content")))
            if remaining < 0 and kept:
                continue
        kept.append(item)
    return kept[::-1]


def is_client_message(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        return False
    return item.get("role") in ("user", "system", "developer")


def split_open_question(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Split items into those to summarize and the trailing messages that await an answer."""
    end = len(items)
    while end and is_client_message(items[end - 1]):
        end -= 1
    return items[:end], items[end:]


def has_model_items(items: list[Any]) -> bool:
    """Return whether the items contain anything that a summary would replace."""
    return not all(map(is_client_message, items))


def make_compact_output(items: list[Any], id_source: IdSource) -> list[Json]:
    """Return the kept items in the form of the output of ``/responses/compact``."""
    output = []
    for item in select_kept_items(items):
        content = item.get("content")
        if isinstance(content, str):
            content = [{"type": "input_text", "text": content}]
        identity = {"type": "message", "id": item.get("id") or id_source.new_id("msg")}
        output.append({**item, **identity, "status": "completed", "content": content})
    return output

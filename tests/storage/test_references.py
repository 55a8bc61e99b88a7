"""Item references: detection and replacement."""

from __future__ import annotations

from forwarder.core.types import Json
from forwarder.storage import references

NAMED: Json = {"id": "mine", "role": "user", "content": "two"}
ANSWER: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "three"}


def test_reference_detection() -> None:
    items = [{"type": "item_reference", "id": "a"}, {"id": "b"}, NAMED, {"id": 5}, 5,
             {"type": "item_reference"}]  # fmt: skip
    assert references.list_references(items) == ["a", "b"]
    assert references.list_references("text") == []
    assert references.replace_references(items, {"a": ANSWER})[:2] == [ANSWER, {"id": "b"}]

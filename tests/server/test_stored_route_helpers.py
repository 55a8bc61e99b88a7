"""Shared helpers of the routes for stored objects."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from forwarder.core.errors import NotFound
from forwarder.server.stored_route_helpers import (
    answer_deletion,
    check_stored_id,
    require_found,
)
from tests.helpers.check_cases import check_each

ERROR = NotFound("There is none.")


@check_each("name", ["resp_1", "a.b:c-d", "x" * 256])
def test_valid_id_is_returned(name: str) -> None:
    assert check_stored_id(name) == name


@check_each("name", ["", "a b", "a/b", "a\0", "ä", "x" * 257])
def test_malformed_id_is_not_found(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        check_stored_id(name)
    assert len(refused.value.message) < 150


def test_missing_object_raises_its_error() -> None:
    assert require_found({}, ERROR) == {}
    with pytest.raises(NotFound, match="There is none"):
        require_found(None, ERROR)
    with pytest.raises(NotFound, match="There is none"):
        answer_deletion(False, "x", "thing.deleted", ERROR)


def test_all_deletions_have_the_same_form(demo: FlaskClient) -> None:
    created = demo.post("/v1/conversations").get_json()
    message = {"role": "user", "content": "x"}
    body = {"model": "demo", "messages": [message], "store": True}
    completion = demo.post("/v1/chat/completions", json=body).get_json()
    for path, kind, name in (
        ("conversations", "conversation.deleted", created["id"]),
        ("chat/completions", "chat.completion.deleted", completion["id"]),
    ):
        deleted = demo.delete(f"/v1/{path}/{name}").get_json()
        assert deleted == {"id": name, "object": kind, "deleted": True}
        assert demo.delete(f"/v1/{path}/{name}").status_code == 404


@check_each("path", ["conversations", "chat/completions"])
def test_metadata_is_checked_before_the_object_is_looked_up(path: str, demo: FlaskClient) -> None:
    for body, param in (({}, "metadata"), ({"metadata": {"a": 5}}, "metadata.a")):
        got = demo.post(f"/v1/{path}/unknown", json=body)
        assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)
    assert demo.post(f"/v1/{path}/unknown", json={"metadata": {}}).status_code == 404

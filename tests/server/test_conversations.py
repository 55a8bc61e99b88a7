"""Errors of the conversation routes."""

from __future__ import annotations

from typing import Any

import httpx2
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve


@check_each(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/items"),
        ("GET", "/items/msg_1"),
        ("DELETE", "/items/msg_1"),
    ],
)
def test_missing_conversation_is_not_found(method: str, path: str, demo: FlaskClient) -> None:
    got = demo.open(f"/v1/conversations/conv_x{path}", method=method)
    assert (got.status_code, got.get_json()["error"]["code"]) == (404, "not_found")


def test_missing_conversation_cannot_be_changed(demo: FlaskClient) -> None:
    for path, body in (("", {"metadata": {}}), ("/items", {"items": []})):
        assert demo.post(f"/v1/conversations/conv_x{path}", json=body).status_code == 404


def test_conversation_without_items_has_an_empty_list(demo: FlaskClient) -> None:
    created = demo.post("/v1/conversations", json={}).get_json()
    assert created["metadata"] == {}
    listed = demo.get(f"/v1/conversations/{created['id']}/items").get_json()
    assert (listed["data"], listed["has_more"], listed["first_id"]) == ([], False, None)


def test_items_without_ids_get_distinct_ids(demo: FlaskClient) -> None:
    user = {"role": "user", "content": "hi"}
    created = demo.post("/v1/conversations", json={"items": [user, user]}).get_json()
    listed = demo.get(f"/v1/conversations/{created['id']}/items?order=asc").get_json()["data"]
    assert len({item["id"] for item in listed}) == 2
    assert [item["status"] for item in listed] == ["completed", "completed"]


def test_items_can_be_deleted_while_paging(demo: FlaskClient) -> None:
    items = [{"role": "user", "content": str(i)} for i in range(5)]
    at = "/v1/conversations/" + demo.post("/v1/conversations", json={"items": items}).json["id"]
    texts, after = [], ""
    while True:
        page = demo.get(f"{at}/items?limit=2{after}").get_json()
        for item in page["data"]:
            texts.append(item["content"][0]["text"])
            assert demo.delete(f"{at}/items/{item['id']}").status_code == 200
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert texts == [*"43210"]
    got = demo.get(f"{at}/items?after=nobody")
    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "after")


@check_each(
    ("item", "param"),
    [
        ({"type": "function_call"}, "items[0].call_id"),
        ({"role": "user", "content": [{"type": "nonsense"}]}, "items[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:oops"}]},
         "items[0].content[0].image_url"),
        ({"role": "user", "content": "x", "id": 5}, "items[0].id"),
    ],
)  # fmt: skip
def test_invalid_items_are_rejected(item: Any, param: str, demo: FlaskClient) -> None:
    created = demo.post("/v1/conversations", json={}).get_json()
    for path in ("", f"/{created['id']}/items"):
        got = demo.post(f"/v1/conversations{path}", json={"items": [item]})
        assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_ids_of_input_items_are_checked(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500))
    item = {"role": "user", "content": "x", "id": 5}
    got = client.post("/v1/responses", json={"model": "chat/m", "input": [item]})
    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "input[0].id")


def test_a_conversation_needs_no_body(demo: FlaskClient) -> None:
    created = demo.post("/v1/conversations")
    assert created.status_code == 200
    assert created.get_json()["metadata"] == {}
    assert demo.get(f"/v1/conversations/{created.get_json()['id']}").status_code == 200
    at = f"/v1/conversations/{created.get_json()['id']}"
    for path in (at, f"{at}/items"):
        assert demo.post(path).status_code == 400
    assert demo.post("/v1/conversations", data=b"{").status_code == 400

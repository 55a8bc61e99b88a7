"""The affinity of a request: its conversation, and data that an upstream stores for it."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.pipeline.affinity import find_affinity, find_sticky_key
from forwarder.services import Services
from forwarder.storage.repositories.history import ChainEnds
from forwarder.upstream.resilience.balance import ANYWHERE, Affinity
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def build_services(**environment: str) -> Services:
    return Services.build(
        Settings.from_env(
            {
                "CHAT_BASE_URL": "http://a.test/v1",
                "RESPONSES_BASE_URL": "http://a.test/v1,http://b.test/v1",
                "RESPONSES_API_KEY": "k1,k2",
                "FORWARDER_DATABASE_URL": "none",
                **environment,
            }
        )
    )


def find_place(
    services: Services,
    request: Json,
    model: str = "responses/m",
    key: str = "c",
    client: str = "responses",
) -> Affinity:
    context = RequestContext("req_1", client, LossReport(), client_key=key)
    routes = services.router.list_routes(model, client)
    return find_affinity(services, routes, request, context)


def test_request_with_one_endpoint_belongs_anywhere() -> None:
    request = {"prompt_cache_key": "x", "previous_response_id": "resp_1", "input": "hi"}

    assert find_place(build_services(), request, "chat/m") is ANYWHERE


@check_each(
    ("request_", "key"),
    [
        ({"prompt_cache_key": "a", "conversation": "conv_1", "user": "u"}, "prompt_cache_key a"),
        ({"conversation": "conv_1", "user": "u"}, "conversation conv_1"),
        ({"conversation": {"id": "conv_1"}}, "conversation conv_1"),
        ({"user": "u", "safety_identifier": "s"}, "user u"),
        ({"metadata": {"user_id": "session_1"}}, "user session_1"),
        ({"user": "u", "metadata": {"user_id": "session_1"}}, "user u"),
        ({"safety_identifier": "s", "metadata": {"user_id": 7}}, None),
        ({"prompt_cache_key": 7, "conversation": {"id": None}, "user": ""}, None),
        ({}, None),
    ],
)
def test_requests_of_a_conversation_share_a_sticky_key(request_: Json, key: str | None) -> None:
    affinity = find_place(build_services(), {"input": "hi", **request_}).sticky_key

    assert ((affinity and affinity.partition(" ")[2]) or None) == key
    if key is not None and not key.startswith("user"):
        assert find_sticky_key(request_) == key


def test_sticky_keys_of_different_clients_differ() -> None:
    services, request = build_services(), {"prompt_cache_key": "a"}

    assert find_place(services, request, key="one") != find_place(services, request, key="two")
    assert find_place(services, request, key="one") == find_place(services, request, key="one")


def test_chain_of_responses_stays_with_its_first_response_and_its_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = build_services()
    monkeypatch.setattr(
        services.store, "find_chain", lambda name, context: ChainEnds("resp_first", "responses~1")
    )

    affinity = find_place(services, {"previous_response_id": "resp_9", "user": "u"})

    assert affinity.origin == "responses~1"
    assert affinity.sticky_key is not None
    assert affinity.sticky_key.endswith("response resp_first")
    assert not affinity.is_pinned


def test_invalid_previous_response_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        find_place(build_services(), {"previous_response_id": "resp_1", "conversation": "conv_1"})


FILE = {"type": "input_file", "file_id": "file-1"}


@check_each(
    ("request_", "is_pinned"),
    [
        ({"input": [{"role": "user", "content": [FILE]}]}, True),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, True),
        (
            {"tools": [{"type": "code_interpreter", "container": {"file_ids": ["file-1"]}}]},
            True,
        ),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, True),
        ({"messages": [{"content": [{"type": "document", "source": FILE}]}]}, True),
        ({"input": [{"content": [{"type": "output_text", "annotations": [FILE]}]}]}, False),
        ({"messages": [{"content": [{"type": "tool_use", "input": FILE}]}]}, False),
        ({"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]}, False),
        ({"tools": [{"input_schema": {"properties": {"file_ids": {}}}}]}, False),
        ({"tools": [{"input_examples": [FILE], "input_schema": {"default": FILE}}]}, False),
        ({"input": "file_id"}, False),
        ({"input": [{"role": "user", "content": "hi"}], "tools": None}, False),
    ],
)
def test_request_with_uploaded_files_belongs_to_the_first_endpoint(
    request_: Json, is_pinned: bool
) -> None:
    services = build_services()
    affinity = find_place(services, request_)

    assert affinity.is_pinned is is_pinned
    if is_pinned:
        assert affinity.origin == services.settings.upstreams[1].origin


@check_each(
    ("model", "environment"),
    [
        ("chat/m", {"CHAT_FALLBACK": "responses"}),
        ("fast", {"FORWARDER_GROUPS": "fast=chat/m,responses/m"}),
        ("openai/m", {"FORWARDER_UPSTREAMS": "chat,openai,responses"}),
    ],
)
def test_uploaded_files_are_found_behind_any_route(model: str, environment: dict[str, str]) -> None:
    services = build_services(
        OPENAI_BASE_URL="http://a.test/v1",
        OPENAI_API_KEY="k1,k2",
        OPENAI_API="both",
        **environment,
    )
    file_upstream = next(each for each in services.settings.upstreams if each.replicas)

    affinity = find_place(services, {"messages": [{"content": [FILE]}]}, model, client="chat")

    assert affinity == Affinity(origin=file_upstream.origin, is_pinned=True)


def test_fallback_with_several_endpoints_gets_the_sticky_key() -> None:
    services = build_services(CHAT_FALLBACK="responses")

    affinity = find_place(services, {"prompt_cache_key": "a"}, "chat/m")

    assert affinity.sticky_key is not None
    assert not affinity.is_pinned


def test_files_in_the_database_do_not_pin_a_request(tmp_path: Any) -> None:
    services = build_services(
        FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/s.db", FORWARDER_FILES="store"
    )

    assert not find_place(services, {"input": [{"role": "user", "content": [FILE]}]}).is_pinned

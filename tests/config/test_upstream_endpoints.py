"""Endpoints of upstreams and groups of models in the environment."""

from __future__ import annotations

import pytest

from forwarder.config.settings import ConfigError, Settings, UpstreamSettings
from forwarder.config.upstream_endpoints import GroupMember, digest_endpoint
from forwarder.context.redaction import list_secrets
from tests.helpers.check_cases import check_each

URLS = "http://a.test/v1,http://b.test/v1"


def read_settings(**environment: str) -> Settings:
    return Settings.from_env({"CHAT_BASE_URL": URLS, **environment})


def read_chat(**environment: str) -> UpstreamSettings:
    return read_settings(**environment).upstreams[0]


def list_mistakes(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_settings(**environment)
    return raised.value.mistakes


def test_each_key_at_each_host_is_an_endpoint() -> None:
    chat = read_chat(CHAT_API_KEY="k1, k2", CHAT_WEIGHTS="2,1")

    assert [(e.base_url, e.api_key, e.endpoint and e.endpoint[:3]) for e in chat.endpoints] == [
        ("http://a.test/v1", "k1", (1, 1, 2.0)),
        ("http://a.test/v1", "k2", (1, 2, 2.0)),
        ("http://b.test/v1", "k1", (2, 1, 1.0)),
        ("http://b.test/v1", "k2", (2, 2, 1.0)),
    ]
    assert [each.entry_name for each in chat.endpoints] == [
        "chat",
        *(each.origin for each in chat.replicas),
    ]
    assert {each.name for each in chat.endpoints} == {"chat"}


def test_upstream_with_one_key_and_one_host_has_no_endpoints() -> None:
    chat = read_chat(CHAT_BASE_URL="http://a.test/v1", CHAT_API_KEY="k1", CHAT_WEIGHTS="3")

    assert (chat.endpoint, chat.replicas) == (None, ())
    assert (chat.origin, chat.entry_name) == ("chat", "chat")


def test_hosts_may_get_the_keys_of_clients() -> None:
    chat = read_chat(CHAT_API_KEY="passthrough")

    assert [(e.passthrough_key, e.api_key) for e in chat.endpoints] == [(True, None)] * 2


def test_origin_stays_with_the_key_when_the_order_changes() -> None:
    before, after = read_chat(CHAT_API_KEY="k1,k2"), read_chat(CHAT_API_KEY="k2,k1")
    origins = {e.api_key: e.origin for e in before.endpoints if e.base_url == "http://a.test/v1"}

    assert origins == {
        e.api_key: e.origin for e in after.endpoints if e.base_url == "http://a.test/v1"
    }
    assert before.find_endpoint(origins["k2"]) is before.endpoints[1]
    assert before.find_endpoint("chat") is before
    assert before.find_endpoint("chat~unknown") is None


def test_origin_is_found_if_one_endpoint_is_left() -> None:
    before = read_chat(CHAT_BASE_URL="http://a.test/v1", CHAT_API_KEY="k1,k2")
    after = read_chat(CHAT_BASE_URL="http://a.test/v1", CHAT_API_KEY="k2")

    assert after.find_endpoint(before.replicas[0].origin) is after
    assert after.find_endpoint(before.origin) is None


def test_origin_contains_no_key() -> None:
    assert "k1" not in digest_endpoint("http://a.test/v1", "k1")
    assert all("secret" not in repr(e) for e in read_chat(CHAT_API_KEY="secret1,secret2").endpoints)


def test_keys_of_all_endpoints_are_secrets() -> None:
    chat = read_chat(CHAT_API_KEY="first-secret,second-secret")

    assert {"first-secret", "second-secret"} <= set(list_secrets(chat))


@check_each(
    ("variable", "text"),
    [
        ("CHAT_BASE_URL", "http://a.test/v1,b"),
        ("CHAT_BASE_URL", "http://a.test/v1,http://a.test/v1/"),
        ("CHAT_BASE_URL", ","),
        ("CHAT_API_KEY", "k1,k1"),
        ("CHAT_API_KEY", "k1,k 2"),
        ("CHAT_API_KEY", "passthrough,k2"),
        ("CHAT_WEIGHTS", "1,0"),
        ("CHAT_WEIGHTS", "1,nan"),
        ("CHAT_WEIGHTS", "1,2,3"),
        ("FORWARDER_GROUPS", "fast"),
        ("FORWARDER_GROUPS", "fast=qwen"),
        ("FORWARDER_GROUPS", "fast=chat/a,other/b"),
        ("FORWARDER_GROUPS", "fast=chat/a,chat/a"),
        ("FORWARDER_GROUPS", "fast=chat/a;fast=chat/b"),
        ("FORWARDER_GROUPS", "fast=chat/a>"),
        ("FORWARDER_GROUPS", "fast=chat/a*0"),
        ("FORWARDER_GROUPS", "fast=chat/a*x"),
        ("FORWARDER_GROUPS", "f*=chat/a"),
        ("FORWARDER_GROUPS", "chat/fast=chat/a"),
    ],
)
def test_mistakes_name_the_variable_once(variable: str, text: str) -> None:
    mistakes = list_mistakes(**{variable: text})

    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"{variable} must")


def test_too_many_endpoints_are_a_mistake() -> None:
    assert list_mistakes(CHAT_API_KEY=",".join(f"k{i}" for i in range(40)))


def test_groups_have_members_with_weights_and_orders() -> None:
    groups = read_settings(
        FORWARDER_GROUPS="fast=chat/a*3, chat/b/c > chat/d; big = chat/e ;"
    ).groups

    assert groups == {
        "fast": (
            GroupMember("chat", "a", 3.0, 0),
            GroupMember("chat", "b/c", 1.0, 0),
            GroupMember("chat", "d", 1.0, 1),
        ),
        "big": (GroupMember("chat", "e", 1.0, 0),),
    }

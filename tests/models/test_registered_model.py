"""A registered model, from the request to the upstream."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ClientError, InvalidRequest, Unsupported
from forwarder.models.registered_model import (
    RegisteredModel,
    add_tag,
    copy_model,
    is_valid_name,
    read_create_request,
    read_flag,
    read_name,
    restore_model,
    strip_tag,
    validate_name,
)
from tests.helpers.check_cases import check_each

BODY: dict[str, Any] = {
    "model": "mine",
    "from": "qwen-plus",
    "remote_host": "https://remote.test/v1/",
    "remote_api_key": "sk-secret",
    "remote_headers": {"X-Org": "org-secret"},
    "remote_query": {"api-version": "query-secret"},
    "provider": "dashscope",
    "quirks": {"drop": ["seed"], "models": {"qwen3-*": {"stream_options": False}}},
    "parameters": {"temperature": 0.5, "num_ctx": 8192},
    "system": "Be kind.",
    "license": ["MIT", "or so"],
    "info": {"capabilities": ["completion", "vision"]},
}


def test_create_request_becomes_upstream_settings() -> None:
    remote = read_create_request(BODY)
    settings = remote.upstream

    assert (remote.name, remote.model, remote.protocol) == ("mine:latest", "qwen-plus", "chat")
    assert (settings.name, settings.base_url) == ("mine:latest", "https://remote.test/v1")
    assert (settings.api_key, settings.provider) == ("sk-secret", "dashscope")
    assert settings.quirks == BODY["quirks"]
    assert (dict(settings.headers), dict(settings.query)) == (
        BODY["remote_headers"],
        BODY["remote_query"],
    )
    assert settings.context_window == 8192
    assert remote.defaults.system == "Be kind."
    assert (remote.license, remote.capabilities) == ("MIT\nor so", ("completion", "vision"))
    assert remote.upstream is settings, "the upstream settings are created once"


@check_each(
    ("kind", "host", "url", "apis", "provider"),
    [
        (None, "https://a/v1", "https://a/v1", {"chat"}, ""),
        ("openai", "a.test/v1", "https://a.test/v1", {"chat"}, ""),
        ("openai-responses", "https://a/v1", "https://a/v1", {"responses"}, ""),
        ("ollama", "http://a:11434", "http://a:11434/v1", {"chat"}, "ollama"),
        ("ollama", "http://a:11434/api/", "http://a:11434/v1", {"chat"}, "ollama"),
        ("ollama", "https://a/deep/v1", "https://a/deep/v1", {"chat"}, "ollama"),
    ],
)
def test_remote_type_selects_the_protocol(
    kind: str | None, host: str, url: str, apis: set[str], provider: str
) -> None:
    body = {"model": "m", "from": "x", "remote_host": host, "remote_type": kind}
    settings = read_create_request(body).upstream

    assert (settings.base_url, {*settings.apis}, settings.provider) == (url, apis, provider)


def test_model_is_restored_from_public_and_secret_fields() -> None:
    remote = read_create_request(BODY)
    public, secrets = remote.get_public_fields(), remote.get_secret_fields()

    assert "secret" not in str(public)
    assert secrets is not None
    restored = restore_model(public, secrets, name=remote.name)
    assert vars(restored).keys() >= {"key", "model"}
    names = list(RegisteredModel.__dataclass_fields__)
    assert [getattr(restored, n) for n in names] == [getattr(remote, n) for n in names]


def test_model_without_secrets_needs_no_cipher() -> None:
    assert (
        read_create_request(
            {"model": "m", "from": "x", "remote_host": "https://a/v1"}
        ).get_secret_fields()
        is None
    )


def test_repr_contains_no_secret() -> None:
    assert "secret" not in repr(read_create_request(BODY))


@check_each(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": 3}, "model"),
        ({"from": None}, "from"),
        ({"from": "x" * 201}, "from"),
        ({"remote_host": "ftp://a"}, "remote_host"),
        ({"remote_host": "https://user:pw@a/v1"}, "remote_host"),
        ({"remote_host": "https://a/v1/chat/completions"}, "remote_host"),
        ({"remote_type": "grpc"}, "remote_type"),
        ({"remote_api_key": "a b"}, "remote_api_key"),
        ({"remote_api_key": "passthrough"}, "remote_api_key"),
        ({"remote_headers": {"a b": "c"}}, "remote_headers"),
        ({"remote_headers": {"a": "b\r\nc: d"}}, "remote_headers"),
        ({"remote_headers": "a: b"}, "remote_headers"),
        ({"remote_headers": {"Transfer-Encoding": "chunked"}}, "remote_headers"),
        ({"remote_headers": {"content-length": "5"}}, "remote_headers"),
        ({"remote_headers": {"Connection": "X-Org"}}, "remote_headers"),
        ({"remote_headers": {"Host": "internal"}}, "remote_headers"),
        ({"remote_headers": {"Proxy-Authorization": "Basic x"}}, "remote_headers"),
        ({"remote_headers": {"Upgrade": "h2c"}}, "remote_headers"),
        ({"remote_headers": {"TE": "trailers"}}, "remote_headers"),
        ({"remote_headers": {"Accept-Encoding": "br"}}, "remote_headers"),
        ({"remote_headers": {"X-Org": "a", "x-org": "b"}}, "remote_headers"),
        ({"remote_query": {"a": 1}}, "remote_query"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": "demo", "remote_host": None}, "provider"),
        ({"quirks": []}, "quirks"),
        ({"quirks": {"nonsense": 1}}, "quirks"),
        ({"quirks": {"stream_options": "no"}}, "quirks"),
        ({"parameters": {"temperature": 9}}, "parameters.temperature"),
        ({"system": 3}, "system"),
        ({"info": {"capabilities": ["flying"]}}, "info.capabilities"),
        ({"info": {"context_length": -1}}, "info.context_length"),
        ({"remote_apikey": "sk"}, "remote_apikey"),
        ({"files": {"a": "sha256:1"}}, "files"),
        ({"adapters": {"a": "sha256:1"}}, "adapters"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"quantize": "q4_K_M"}, "quantize"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    ],
)
def test_invalid_field_is_named(change: dict[str, Any], param: str) -> None:
    cleared = {} if param != "provider" else {k: None for k in BODY if k.startswith("remote_")}
    with pytest.raises(ClientError) as caught:
        read_create_request({**BODY, **cleared, **change})
    assert caught.value.param == param
    assert "sk-secret" not in caught.value.message


def test_quirks_need_a_remote() -> None:
    body = {"model": "mine", "from": "known", "quirks": {"stream_options": False}}
    with pytest.raises(InvalidRequest, match="'quirks' requires 'remote_host'"):
        read_create_request(body)


def test_empty_fields_of_ollama_clients_are_accepted() -> None:
    body = {"name": "m", "from": "x", "files": {}, "template": "", "quantize": None, "stream": True}
    assert (read_create_request(body).name, read_create_request(body).host) == ("m:latest", "")


def test_fields_of_local_models_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="'files' is not supported"):
        read_create_request({**BODY, "files": {"a": "b"}})


def test_copied_model_keeps_fields_that_are_not_overridden() -> None:
    source = read_create_request(BODY)
    overrides = read_create_request(
        {"model": "other", "from": "mine", "parameters": {"temperature": 1}}
    )

    copied = copy_model(source, overrides)

    assert (copied.name, copied.model, copied.key) == ("other:latest", "qwen-plus", "sk-secret")
    assert copied.parameters == {"temperature": 1, "num_ctx": 8192}
    assert copied.system == "Be kind."
    assert copied.upstream is not source.upstream


def test_names_and_flags_are_read_from_requests() -> None:
    assert read_name({"name": "a"}) == read_name({"model": "a", "name": "b"}) == "a"
    assert validate_name("a", "destination") == "a:latest"
    assert [read_flag({"stream": v}, "stream", True) for v in (None, True, False)] == [
        True,
        True,
        False,
    ]
    with pytest.raises(InvalidRequest):
        read_flag({"stream": "no"}, "stream", True)
    with pytest.raises(InvalidRequest) as caught:
        validate_name("a/b/c/d", "destination")
    assert caught.value.param == "destination"


@check_each(
    ("name", "tagged", "untagged"),
    [
        ("qwen", "qwen:latest", "qwen"),
        ("qwen:latest", "qwen:latest", "qwen"),
        ("qwen:8b", "qwen:8b", "qwen:8b"),
        ("me/qwen", "me/qwen:latest", "me/qwen"),
        ("host:1/qwen", "host:1/qwen:latest", "host:1/qwen"),
    ],
)
def test_name_gets_default_tag(name: str, tagged: str, untagged: str) -> None:
    assert (add_tag(name), strip_tag(add_tag(name))) == (tagged, untagged)


@check_each("name", ["a", "me/a", "x/me/a:1.5-b", "Qwen_3.5", "_a", "a" * 80])
def test_valid_names_are_accepted(name: str) -> None:
    assert is_valid_name(name)


@check_each(
    "name", ["", ":x", "a:", "a b", "a\n", "é", "../a", "a//b", "-a", "a" * 81, "a/b/c/d", "a:b:c"]
)
def test_invalid_names_are_rejected(name: str) -> None:
    assert not is_valid_name(name)

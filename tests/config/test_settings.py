"""Settings read from the environment: values, defaults and mistakes."""

from __future__ import annotations

import dataclasses
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from forwarder.config import settings as config
from forwarder.config.parsers import ToolSource
from forwarder.config.settings import (
    SETTINGS,
    UPSTREAM_SETTINGS,
    ConfigError,
    Settings,
    UpstreamSettings,
)
from forwarder.core.url_secrets import is_secret_name
from forwarder.providers import PROFILE_FIELDS, PROFILES
from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
URL = "http://127.0.0.1:9/v1"


def read_settings(**environ: str) -> Settings:
    return Settings.from_env(environ)


def read_chat(**environ: str) -> UpstreamSettings:
    """Return the settings of the upstream ``chat``; variable names are given without ``CHAT_``."""
    variables = {f"CHAT_{suffix}": value for suffix, value in environ.items()}
    return read_settings(**{"CHAT_BASE_URL": URL, **variables}).upstreams[0]


def list_mistakes(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_settings(**environ)
    return caught.value.mistakes


# -- which upstreams there are --------------------------------------------------------------------


def test_empty_environment_runs_the_demo() -> None:
    settings = read_settings(PATH="/bin", HOME="/root")
    assert settings.demo
    assert [(u.name, u.provider, u.base_url, {*u.apis}) for u in settings.upstreams] == [
        ("chat", "demo", "http://demo.invalid/v1", {"chat"}),
        ("responses", "demo", "http://demo.invalid/v1", {"responses"}),
    ]


def test_variables_of_absent_upstreams_do_not_reach_the_demo() -> None:
    assert read_settings(CHAT_MODELS="a=b", RESPONSES_API="?") == read_settings()


def test_key_without_base_url_is_a_mistake() -> None:
    (mistake,) = list_mistakes(CHAT_API_KEY="sk-1")

    assert mistake.startswith("CHAT_BASE_URL")


@check_each(
    ("environ", "names"),
    [
        ({"CHAT_BASE_URL": URL}, ["chat"]),
        ({"RESPONSES_BASE_URL": URL}, ["responses"]),
        ({"RESPONSES_BASE_URL": URL, "CHAT_BASE_URL": URL}, ["chat", "responses"]),
        ({"CHAT_BASE_URL": URL, "RESPONSES_BASE_URL": ""}, ["chat"]),
        ({"CHAT_PROVIDER": "openai"}, ["chat"]),
        ({"FORWARDER_UPSTREAMS": "b, a", "A_BASE_URL": URL, "B_BASE_URL": URL}, ["b", "a"]),
        ({"FORWARDER_UPSTREAMS": "my-vllm", "MY_VLLM_BASE_URL": URL}, ["my-vllm"]),
    ],
)
def test_default_upstreams_without_base_url_are_left_out(
    environ: dict[str, str], names: list[str]
) -> None:
    settings = read_settings(**environ)
    assert [upstream.name for upstream in settings.upstreams] == names
    assert not settings.demo


def test_named_upstream_requires_a_base_url() -> None:
    assert list_mistakes(FORWARDER_UPSTREAMS="chat,local", CHAT_BASE_URL=URL) == [
        "LOCAL_BASE_URL must be set, because FORWARDER_UPSTREAMS names this upstream"
    ]


@check_each(
    ("provider", "address"),
    [("openai", "https://api.openai.com/v1"), ("demo", "http://demo.invalid/v1")],
)
def test_provider_implies_the_base_url(provider: str, address: str) -> None:
    (upstream,) = read_settings(FORWARDER_UPSTREAMS="x", X_PROVIDER=provider.upper()).upstreams
    assert (upstream.base_url, upstream.provider) == (address, provider)


def test_base_url_overrides_the_implied_one() -> None:
    assert read_chat(PROVIDER="openai").base_url == URL


@check_each("names", ["Chat", "a b", "a,a", "a-b,a_b", "forwarder", ",", "é"])
def test_upstream_names_with_colliding_variables_are_rejected(names: str) -> None:
    (mistake,) = list_mistakes(FORWARDER_UPSTREAMS=names)
    assert mistake.startswith("FORWARDER_UPSTREAMS must be different names made of a-z")


# -- values ---------------------------------------------------------------------------------------


def test_forwarder_defaults() -> None:
    assert read_settings(CHAT_BASE_URL=URL) == Settings(
        upstreams=(read_chat(),),
        demo=False,
        groups={},
        default_model=None,
        codex_helper_model=None,
        api_keys=(),
        client_names={},
        client_keys="auto",
        admin_keys=(),
        chat_reasoning="auto",
        responses_reasoning="auto",
        key_reasoning={},
        chat_default_stream=False,
        hosted_tools="drop",
        mcp_urls=True,
        mcp_servers=None,
        mapped_tools={},
        tools_for_all=(),
        tool_timeout=60,
        web_search=ToolSource("off"),
        web_search_url=None,
        web_search_key=None,
        image_generation=ToolSource("off"),
        stop_drain=False,
        max_choices=8,
        strict=False,
        keepalive=15.0,
        max_body=64 * 1024 * 1024,
        max_json_values=500_000,
        max_schema=256 * 1024,
        max_schema_nodes=50_000,
        queue_timeout=2.0,
        head_timeout=10.0,
        body_timeout=30.0,
        send_timeout=60.0,
        min_send_rate=4096,
        max_chunk_overhead=65536,
        max_body_memory=192 * 2**20,
        max_form_files=2**30,
        max_answer=64 * 2**20,
        websocket_memory=32 * 2**20,
        websocket_idle=900.0,
        reasoning_ttl=21600.0,
        public_url=None,
        max_concurrent=None,
        fetch=True,
        fetch_allow=(),
        fetch_max=20 * 1024 * 1024,
        fetch_timeout=10.0,
        fetch_lookups=8,
        remote_allow=(),
        health_interval=0.0,
        health_ask_interval=60.0,
        upload_max_age=3600.0,
        shared_files=False,
        files="auto",
        file_max=64 * 2**20,
        files_max=512 * 2**20,
        embedding_model=None,
        secret_keys=(),
        database_url="sqlite:///forwarder.db",
        store_days=30.0,
        store_max_size=8 * 2**30,
        background_grace=None,
        background_attempts=3,
        background_unsaved_age=900.0,
        background_unsaved_max=64 * 2**20,
        log_level="INFO",
        log_format="auto",
        log_color=None,
        log_sample=0.0,
        log_bodies=False,
        ready_ttl=5.0,
        metrics=True,
        metrics_key=None,
        usage_days=400.0,
        usage_interval=5.0,
        prices={},
        rate_requests=None,
        rate_tokens=None,
        rate_storage="memory://",
        rate_when_down="allow",
        rate_timeout=0.07,
        trusted_proxies=0,
        hosts=(),
        cors_origins=(),
        client_headers=(),
        capture="off",
        capture_count=100,
        capture_max=2 * 2**20,
        capture_age=86400.0,
        capture_redact=(),
        docs_dir="site",
        console=True,
        tracing=False,
    )


@check_each("name", config.TRACING_VARIABLES)
def test_opentelemetry_variables_enable_tracing(name: str) -> None:
    assert read_settings(**{name: "http://collector:4318"}).tracing
    assert not read_settings(**{name: " "}).tracing


def test_upstream_defaults() -> None:
    assert read_chat() == UpstreamSettings(
        name="chat",
        base_url=URL,
        api_key=None,
        passthrough_key=False,
        apis=frozenset({"chat"}),
        aliases={},
        globs=(),
        provider="",
        headers={},
        query={},
        quirks={},
        hosted_tools=None,
        connect_timeout=10.0,
        first_byte_timeout=300.0,
        whole_timeout=600.0,
        idle_timeout=300.0,
        total_timeout=None,
        max_retries=0,
        retry_wait=20.0,
        key_cooldown=15.0,
        fallback=(),
        breaker_failures=10,
        breaker_share=0.5,
        breaker_window=30.0,
        breaker_cooldown=15.0,
        max_concurrent=None,
        context_window=None,
        model_info={},
    )


@check_each(
    ("suffix", "text", "field", "value"),
    [
        ("DEFAULT_MODEL", "qwen-plus", "default_model", "qwen-plus"),
        ("CODEX_HELPER_MODEL", "qwen-turbo", "codex_helper_model", "qwen-turbo"),
        ("API_KEYS", "a, b,", "api_keys", ("a", "b")),
        ("ADMIN_KEYS", "a, b,", "admin_keys", ("a", "b")),
        ("CHAT_REASONING", "Think", "chat_reasoning", "think"),
        ("CHAT_REASONING", "AUTO", "chat_reasoning", "auto"),
        ("RESPONSES_REASONING", "both", "responses_reasoning", "both"),
        (
            "KEY_REASONING",
            "a=think, b==Text,a=summary,",
            "key_reasoning",
            {"a": ("think", "summary"), "b=": ("text",)},
        ),
        ("CHAT_DEFAULT_STREAM", "TRUE", "chat_default_stream", True),
        ("HOSTED_TOOLS", "refuse", "hosted_tools", "refuse"),
        ("STRICT", "1", "strict", True),
        ("KEEPALIVE", "0.5", "keepalive", 0.5),
        ("MAX_BODY", "1000", "max_body", 1000),
        ("MAX_BODY", "8K", "max_body", 8192),
        ("MAX_JSON_VALUES", "1000", "max_json_values", 1000),
        ("MAX_SCHEMA", "1m", "max_schema", 1024 * 1024),
        ("MAX_SCHEMA_NODES", "2000", "max_schema_nodes", 2000),
        ("MAX_FORM_FILES", "2g", "max_form_files", 2**31),
        ("MAX_BODY_MEMORY", "1g", "max_body_memory", 2**30),
        ("MAX_ANSWER", "16m", "max_answer", 2**24),
        ("WEBSOCKET_MEMORY", "8m", "websocket_memory", 2**23),
        ("PUBLIC_URL", "https://f.example/", "public_url", "https://f.example"),
        ("PUBLIC_URL", "https://f.example/a/v1/", "public_url", "https://f.example/a"),
        ("MAX_CONCURRENT", "200", "max_concurrent", 200),
        ("QUEUE_TIMEOUT", "0", "queue_timeout", 0.0),
        ("HEAD_TIMEOUT", "2.5", "head_timeout", 2.5),
        ("BODY_TIMEOUT", "90", "body_timeout", 90.0),
        ("SEND_TIMEOUT", "5", "send_timeout", 5.0),
        ("MIN_SEND_RATE", "1k", "min_send_rate", 1024),
        ("MAX_CHUNK_OVERHEAD", "1m", "max_chunk_overhead", 2**20),
        ("WEBSOCKET_IDLE", "60", "websocket_idle", 60.0),
        ("REASONING_TTL", "0", "reasoning_ttl", 0.0),
        ("SECRET_KEY", "new one,old", "secret_keys", ("new one", "old")),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("LOG_FORMAT", "Text", "log_format", "text"),
        ("LOG_SAMPLE", "0.25", "log_sample", 0.25),
        ("LOG_BODIES", "yes", "log_bodies", True),
        ("READY_TTL", "0", "ready_ttl", 0.0),
        (
            "REMOTE_ALLOW",
            "gpu.internal, 10.1.0.0/16",
            "remote_allow",
            ("gpu.internal", "10.1.0.0/16"),
        ),
        ("HEALTH_INTERVAL", "60", "health_interval", 60.0),
        ("METRICS", "false", "metrics", False),
        ("METRICS_KEY", "abc", "metrics_key", "abc"),
        ("RATE_LIMIT_REQUESTS", "60 / Minute", "rate_requests", "60/minute"),
        ("RATE_LIMIT_TOKENS", "1000000/day", "rate_tokens", "1000000/day"),
        ("RATE_LIMIT_STORAGE", "redis://:pw@h:6379/1", "rate_storage", "redis://:pw@h:6379/1"),
        (
            "RATE_LIMIT_STORAGE",
            "redis+unix:///run/r.sock",
            "rate_storage",
            "redis+unix:///run/r.sock",
        ),
        ("RATE_LIMIT_WHEN_DOWN", "Refuse", "rate_when_down", "refuse"),
        ("RATE_LIMIT_TIMEOUT", "1.5", "rate_timeout", 1.5),
        ("TRUSTED_PROXIES", "2", "trusted_proxies", 2),
        ("DOCS_DIR", "off", "docs_dir", None),
        ("DOCS_DIR", "/srv/docs", "docs_dir", "/srv/docs"),
        ("CAPTURE", "Memory", "capture", "memory"),
        ("CAPTURE", "OFF", "capture", "off"),
        ("CAPTURE", "/var/lib/forwarder/exchanges", "capture", "/var/lib/forwarder/exchanges"),
        ("CAPTURE_COUNT", "7", "capture_count", 7),
        ("CAPTURE_MAX", "64k", "capture_max", 65536),
        ("CAPTURE_AGE", "0.5", "capture_age", 0.5),
        ("HOSTS", "LLM.example., *.lan", "hosts", ("llm.example", "*.lan")),
        ("HOSTS", "*", "hosts", ("*",)),
        ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
        (
            "CORS_ORIGINS",
            "https://Chat.example/, http://localhost:3000,",
            "cors_origins",
            ("https://chat.example", "http://localhost:3000"),
        ),
        ("CLIENT_HEADERS", "X-Codex-*, user-agent,", "client_headers", ("x-codex-*", "user-agent")),
        ("CAPTURE_REDACT", "user, a.*.b,", "capture_redact", ("user", "a.*.b")),
        ("KEEPALIVE", " ", "keepalive", 15.0),
    ],
)
def test_forwarder_values_are_parsed(suffix: str, text: str, field: str, value: Any) -> None:
    assert getattr(read_settings(**{f"FORWARDER_{suffix}": text}), field) == value


@check_each(
    ("suffix", "text", "field", "value"),
    [
        ("BASE_URL", "https://h.example:8443/v1/", "base_url", "https://h.example:8443/v1"),
        ("BASE_URL", "http://[::1]:8000/v1", "base_url", "http://[::1]:8000/v1"),
        ("API_KEY", " sk-1 ", "api_key", "sk-1"),
        ("API_KEY", "sk-1", "passthrough_key", False),
        ("API_KEY", "passthrough", "api_key", None),
        ("API_KEY", "passthrough", "passthrough_key", True),
        ("API", "Responses", "apis", {"responses"}),
        ("API", "both", "apis", {"chat", "responses"}),
        ("MODELS", "fast=qwen-turbo, qwen-*,m", "aliases", {"fast": "qwen-turbo"}),
        ("MODELS", "fast=qwen-turbo, qwen-*,m", "globs", ("qwen-*", "m")),
        ("MODELS", "claude-*=qwen-turbo", "aliases", {"claude-*": "qwen-turbo"}),
        ("PROVIDER", "DeepSeek", "provider", "deepseek"),
        ("HEADERS", "A: b; C: d:e ;", "headers", {"A": "b", "C": "d:e"}),
        ("HEADERS", '{"Cookie": "a=b; c=d"}', "headers", {"Cookie": "a=b; c=d"}),
        ("QUERY", "api-version=2024-10-21&x=", "query", {"api-version": "2024-10-21", "x": ""}),
        ("QUIRKS", '{"strict_tools": false}', "quirks", {"strict_tools": False}),
        ("CONNECT_TIMEOUT", "1.5", "connect_timeout", 1.5),
        ("FIRST_BYTE_TIMEOUT", "600", "first_byte_timeout", 600.0),
        ("WHOLE_TIMEOUT", "1200", "whole_timeout", 1200.0),
        ("IDLE_TIMEOUT", "60", "idle_timeout", 60.0),
        ("TOTAL_TIMEOUT", "900", "total_timeout", 900.0),
        ("TOTAL_TIMEOUT", "0", "total_timeout", None),
        ("MAX_RETRIES", "5", "max_retries", 5),
        ("RETRY_WAIT", "0", "retry_wait", 0.0),
        ("BREAKER_FAILURES", "0", "breaker_failures", 0),
        ("BREAKER_SHARE", "0.25", "breaker_share", 0.25),
        ("BREAKER_WINDOW", "60", "breaker_window", 60.0),
        ("BREAKER_COOLDOWN", "0.5", "breaker_cooldown", 0.5),
        ("MAX_CONCURRENT", "8", "max_concurrent", 8),
        ("CONTEXT_WINDOW", "200000", "context_window", 200_000),
        ("CONTEXT_WINDOW", "0", "context_window", None),
        ("MODEL_INFO", '{"m-*": {"x": 1}}', "model_info", {"m-*": {"x": 1}}),
    ],
)
def test_upstream_values_are_parsed(suffix: str, text: str, field: str, value: Any) -> None:
    assert getattr(read_chat(**{suffix: text}), field) == value


def test_fallbacks_are_parsed_with_and_without_model() -> None:
    names = {"FORWARDER_UPSTREAMS": "a,b,my-c"}
    urls = {f"{name}_BASE_URL": URL for name in ("A", "B", "MY_C")}

    upstreams = read_settings(
        **names, **urls, A_FALLBACK="my-c/org/model, b", B_FALLBACK="a"
    ).upstreams

    assert [u.fallback for u in upstreams] == [
        (("my-c", "org/model"), ("b", None)),
        (("a", None),),
        (),
    ]


@check_each(
    ("name", "apis"), [("chat", {"chat"}), ("responses", {"responses"}), ("qwen", {"chat"})]
)
def test_upstream_name_implies_its_api(name: str, apis: set[str]) -> None:
    variables = {"FORWARDER_UPSTREAMS": name, f"{name.upper()}_BASE_URL": URL}
    assert read_settings(**variables).upstreams[0].apis == apis


# -- mistakes -------------------------------------------------------------------------------------


@check_each(
    ("variable", "text", "allowed"),
    [
        ("CHAT_BASE_URL", "127.0.0.1:8000/v1", "an http:// or https:// address"),
        ("CHAT_BASE_URL", "ftp://host/v1", "an http:// or https:// address"),
        ("CHAT_BASE_URL", "http:///v1", "an http:// or https:// address"),
        ("CHAT_BASE_URL", "http://host/\x01", "an http:// or https:// address"),
        ("CHAT_BASE_URL", "http://host/" + "a" * 70_000, "an http:// or https:// address"),
        ("CHAT_BASE_URL", "http://host:port/v1", "an http:// or https:// address"),
        ("CHAT_BASE_URL", "http://host/v1/chat/completions", "without the final /chat/completions"),
        ("CHAT_BASE_URL", "http://host/v1/responses/", "or /responses"),
        ("CHAT_BASE_URL", "http://user:pass@host/v1", "without user, query or fragment"),
        ("CHAT_BASE_URL", "http://host/v1?x=y", "without user, query or fragment"),
        ("CHAT_API_KEY", "Bearer sk-1", "a key without spaces"),
        ("CHAT_API_KEY", "sk-1\N{RIGHT DOUBLE QUOTATION MARK}", "in plain ASCII"),
        ("CHAT_API", "completions", "one of chat, responses, both"),
        ("CHAT_MODELS", "quick=", "aliases (fast=qwen-turbo, claude-*=qwen-plus)"),
        ("CHAT_MODELS", "=qwen-max", "aliases (fast=qwen-turbo, claude-*=qwen-plus)"),
        ("CHAT_MODELS", "fast=qwen-*", "aliases (fast=qwen-turbo, claude-*=qwen-plus)"),
        ("CHAT_MODELS", "fast=a,fast=b", "aliases (fast=qwen-turbo, claude-*=qwen-plus)"),
        ("CHAT_PROVIDER", "deepsek", "one of azure, chatgpt, copilot"),
        ("CHAT_HEADERS", "just-a-name", "'Name: value; Other: value' or a JSON object"),
        ("CHAT_HEADERS", "a b: c", "'Name: value; Other: value' or a JSON object"),
        ("CHAT_HEADERS", '{"A": 1}', "a JSON object of strings"),
        ("CHAT_HEADERS", '{"A": "b\\r\\nC: d"}', "a JSON object of strings"),
        ("CHAT_QUERY", "api-version", "name=value pairs joined by &"),
        ("CHAT_MODEL_INFO", "{", "a JSON object of objects"),
        ("CHAT_MODEL_INFO", '{"m": 1}', "a JSON object of objects"),
        ("CHAT_CONTEXT_WINDOW", "-1", "a number from 0"),
        ("CHAT_QUIRKS", "{", "a JSON object"),
        ("CHAT_QUIRKS", "[]", "a JSON object"),
        ("CHAT_QUIRKS", '{"strict_tool": true}', "strict_tools"),
        ("CHAT_CONNECT_TIMEOUT", "0", "a number of seconds from 0.001 to 86400"),
        ("CHAT_FIRST_BYTE_TIMEOUT", "inf", "a number of seconds from 0.001 to 86400"),
        ("CHAT_IDLE_TIMEOUT", "nan", "a number of seconds from 0.001 to 86400"),
        ("CHAT_TOTAL_TIMEOUT", "-1", "a number of seconds from 0 to 86400"),
        ("CHAT_MAX_RETRIES", "6", "a number from 0 to 5"),
        ("CHAT_MAX_RETRIES", "1.5", "a number from 0 to 5"),
        ("CHAT_RETRY_WAIT", "-1", "a number of seconds from 0"),
        ("CHAT_FALLBACK", "elsewhere", "names of other upstreams"),
        ("CHAT_FALLBACK", "responses", "names of other upstreams"),
        ("CHAT_FALLBACK", "chat", "names of other upstreams"),
        ("CHAT_FALLBACK", "elsewhere/", "alone or as NAME/MODEL"),
        ("CHAT_FALLBACK", "/qwen-max", "alone or as NAME/MODEL"),
        ("CHAT_BREAKER_FAILURES", "few", "a number from 0 to 1000"),
        ("CHAT_BREAKER_SHARE", "50", "a number from 0 to 1"),
        ("CHAT_BREAKER_COOLDOWN", "0", "a number of seconds from 0.001"),
        ("CHAT_MAX_CONCURRENT", "-1", "a number from 0 to 1e+06"),
        ("FORWARDER_MAX_CONCURRENT", "many", "a number from 0 to 1e+06"),
        ("FORWARDER_API_KEYS", "a b,c", "keys without spaces"),
        ("FORWARDER_API_KEYS", "alice:", "alone or as NAME:KEY"),
        ("FORWARDER_API_KEYS", "alice:k,alice:l", "names are different"),
        ("FORWARDER_API_KEYS", "alice:k,bob:k", "names are different"),
        ("FORWARDER_API_KEYS", "anonymous:k", "anonymous, none, other, unknown are reserved"),
        ("FORWARDER_USAGE_DAYS", "-1", "a number of days from 0"),
        ("FORWARDER_PRICES", "gpt-*=1/2", "PATTERN=INPUT/CACHED/OUTPUT separated by commas"),
        ("FORWARDER_PRICES", "gpt-*=1/2/-3", "in USD per million tokens"),
        ("FORWARDER_PRICES", "a=1/1/1,a=2/2/2", "in USD per million tokens"),
        ("FORWARDER_PRICES", "=1/1/1", "in USD per million tokens"),
        ("FORWARDER_PRICES", "a=nan/1/1", "in USD per million tokens"),
        ("FORWARDER_PRICES", "/nowhere/prices.toml", "the path of a TOML or JSON file"),
        ("FORWARDER_CHAT_REASONING", "loud", "one of auto, thinking, think, reasoning_content"),
        ("FORWARDER_RESPONSES_REASONING", "none", "one of auto, summary, text, both"),
        ("FORWARDER_KEY_REASONING", "sk-1", "KEY=STYLE pairs separated by commas"),
        ("FORWARDER_KEY_REASONING", "=think", "KEY=STYLE pairs"),
        ("FORWARDER_KEY_REASONING", "sk 1=think", "KEY=STYLE pairs"),
        ("FORWARDER_KEY_REASONING", "sk-1=loud", "STYLE is one of auto, thinking, think"),
        ("FORWARDER_CHAT_DEFAULT_STREAM", "maybe", "one of true, false"),
        ("FORWARDER_HOSTED_TOOLS", "run", "one of drop, refuse"),
        ("FORWARDER_KEEPALIVE", "15s", "a number of seconds"),
        ("FORWARDER_MAX_BODY", "0", "a number of bytes above 0"),
        ("FORWARDER_MAX_BODY", "1t", "with the unit k, m or g"),
        ("FORWARDER_MAX_JSON_VALUES", "10", "a number of values from 1000 to 1e+08"),
        ("FORWARDER_MAX_SCHEMA", "0", "a number of bytes above 0"),
        ("FORWARDER_MAX_SCHEMA_NODES", "10", "a number of nodes from 1000 to 1e+07"),
        ("FORWARDER_PUBLIC_URL", "f.example", "an http:// or https:// address without"),
        ("FORWARDER_FETCH", "perhaps", "one of on, off"),
        ("FORWARDER_FETCH_ALLOW", "10.0.0.0/99", "addresses and networks"),
        ("FORWARDER_FETCH_ALLOW", "http://host", "addresses and networks"),
        ("FORWARDER_REMOTE_ALLOW", "http://host", "addresses and networks"),
        ("FORWARDER_HEALTH_INTERVAL", "-1", "a number of seconds from 0"),
        ("FORWARDER_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("FORWARDER_LOG_FORMAT", "xml", "one of auto, json, text"),
        ("FORWARDER_LOG_SAMPLE", "1.1", "a number from 0 to 1"),
        ("FORWARDER_READY_TTL", "-1", "a number of seconds from 0"),
        ("FORWARDER_CAPTURE", "maybe", "off, memory or the path of a directory"),
        ("FORWARDER_CAPTURE_COUNT", "none", "a number from 1 to 100000"),
        ("FORWARDER_HOSTS", "llm.example:8000", "host names and patterns"),
        ("FORWARDER_HOSTS", "https://llm.example", "host names and patterns"),
        ("FORWARDER_HOSTS", "*example", "host names and patterns"),
        ("FORWARDER_CORS_ORIGINS", "page.test", "* or origins (https://chat.example.com)"),
        ("FORWARDER_CORS_ORIGINS", "https://chat.example/path", "* or origins"),
        ("FORWARDER_CORS_ORIGINS", "https://*.example", "* or origins"),
        ("FORWARDER_CLIENT_HEADERS", "authorization", "header names or patterns (x-codex-*)"),
        ("FORWARDER_CLIENT_HEADERS", "x-a, Transfer-Encoding", "header names or patterns"),
        ("FORWARDER_CLIENT_HEADERS", "x-a: b", "header names or patterns"),
        ("FORWARDER_CAPTURE_REDACT", "a..b", "field names (user) and paths"),
    ],
)
def test_mistake_names_the_variable_and_allowed_values_but_not_the_value(
    variable: str, text: str, allowed: str
) -> None:
    (mistake,) = list_mistakes(**{"CHAT_BASE_URL": URL, variable: text})
    assert mistake.startswith(f"{variable} must be ")
    assert allowed in mistake
    assert "\n" not in mistake
    assert len(text) < 4 or text not in mistake


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(CHAT_BASE_URL="x", CHAT_API="x", RESPONSES_BASE_URL="x", FORWARDER_STRICT="x")
    assert [line.split()[0] for line in caught.value.mistakes] == [
        "FORWARDER_STRICT",
        "CHAT_BASE_URL",
        "CHAT_API",
        "RESPONSES_BASE_URL",
    ]
    assert str(caught.value).splitlines() == caught.value.mistakes


@check_each(
    ("variable", "hint"),
    [
        ("CHAT_BASE_ULR", "did you mean CHAT_BASE_URL?"),
        ("CHAT_APIKEY", "did you mean CHAT_API_KEY?"),
        ("CHAT_KEY_REST", "did you mean CHAT_KEY_COOLDOWN?"),
        ("RESPONSES_BASEURL", "did you mean RESPONSES_BASE_URL?"),
        ("FORWARDER_API_KEY", "did you mean FORWARDER_API_KEYS?"),
        ("FORWARDER_SECRET_KEYS", "did you mean FORWARDER_SECRET_KEY?"),
        ("FORWARDER_COLOUR", ".env.example lists all settings"),
    ],
)
def test_misspelled_variable_is_a_mistake(variable: str, hint: str) -> None:
    assert list_mistakes(**{variable: "x"}) == [f"{variable} is not a setting; {hint}"]


@check_each(
    "variable",
    [
        "CHAT_SOMETHING",
        "CHAT_DATABASE_URL",
        "CHAT_TOKEN",
        "CHAT_SERVICE_HOST",
        "CHAT_PORT_8000_TCP_ADDR",
        "RESPONSES_DIR",
        "OPENAI_BASE_ULR",
        "FORWARDER_PORT",
        "FORWARDER_PORT_8000_TCP",
        "FORWARDER_PORT_8000_TCP_ADDR",
        "FORWARDER_SERVICE_HOST",
        "FORWARDER_SERVICE_PORT_HTTP",
        "FORWARDER_DOTENV",
    ],
)
def test_variables_of_other_programs_are_ignored(variable: str) -> None:
    assert read_settings(**{variable: "x"}).demo


def test_upstream_names_with_a_common_prefix_keep_their_variables() -> None:
    variables = {"FORWARDER_UPSTREAMS": "a,a-2", "A_BASE_URL": URL, "A_2_BASE_URL": URL + "/2"}
    assert [u.base_url for u in read_settings(**variables).upstreams] == [URL, URL + "/2"]
    assert list_mistakes(**variables, A_2_BASE_ULR=URL) == [
        "A_2_BASE_ULR is not a setting; did you mean A_2_BASE_URL?"
    ]


# -- properties of settings -----------------------------------------------------------------------


def test_repr_shows_no_secret() -> None:
    settings = read_settings(
        CHAT_BASE_URL=URL,
        CHAT_API_KEY="secret-1",
        CHAT_HEADERS="api-key: secret-2",
        CHAT_QUERY="key=secret-3",
        CHAT_QUIRKS='{"reasoning_placeholder": "secret-4"}',
        FORWARDER_API_KEYS="secret-5",
        FORWARDER_SECRET_KEY="secret-6",
        FORWARDER_KEY_REASONING="secret-5=think",
    )
    assert "secret-" not in repr(settings)
    assert URL in repr(settings)


def test_settings_are_frozen() -> None:
    upstream = read_chat(HEADERS="a: b", QUERY="a=b", QUIRKS='{"drop": []}', MODELS="a=b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        upstream.base_url = ""  # type: ignore[misc]
    settings = read_settings(FORWARDER_HOSTED_TOOL_SHELL="mcp:a/b")
    for owner in (upstream, settings):
        kinds = {name: type(value) for name, value in vars(owner).items()}
        assert not [name for name, kind in kinds.items() if kind in (dict, list, set)]


def test_make_upstream_settings_uses_defaults() -> None:
    fields = {"name": "late:latest", "base_url": "https://late/v1", "api_key": "sk-late"}

    assert config.make_upstream_settings(**fields) == dataclasses.replace(read_chat(), **fields)


@check_each("model", ["embedder", "other/embedder", "chat/", "passing/embedder", "/embedder"])
def test_embedding_model_needs_an_upstream_with_a_key(model: str) -> None:
    environment = {
        "FORWARDER_UPSTREAMS": "chat,passing",
        "CHAT_BASE_URL": URL,
        "CHAT_API_KEY": "sk-x",
        "PASSING_BASE_URL": URL,
        "PASSING_API_KEY": "passthrough",
    }
    settings = read_settings(**environment, FORWARDER_EMBEDDING_MODEL="chat/a/b")
    assert settings.embedding_model == "chat/a/b"
    assert list_mistakes(**environment, FORWARDER_EMBEDDING_MODEL=model) == [
        "FORWARDER_EMBEDDING_MODEL must be an upstream with a key of its own, a slash, and a model"
    ]


@check_each(
    ("text", "names", "count"),
    [
        ("", {}, 0),
        ("a,b,a", {"a": None, "b": None}, 2),
        ("alice:k,l", {"k": "alice", "l": None, "alice:k": "alice"}, 2),
        ("k,alice:k", {"k": "alice", "alice:k": "alice"}, 1),
        ("alice:k:l", {"k:l": "alice", "alice:k:l": "alice"}, 1),
        ("a/b:k,:l", {"a/b:k": None, ":l": None}, 2),
        (f"{'x' * 65}:k", {f"{'x' * 65}:k": None}, 1),
    ],
)
def test_client_keys_have_names_and_stay_valid_with_them(
    text: str, names: dict[str, str | None], count: int
) -> None:
    settings = read_settings(FORWARDER_API_KEYS=text)

    assert settings.client_names == names
    assert settings.api_keys == tuple(names)
    assert settings.client_count == count


def test_invalid_client_keys_are_one_mistake() -> None:
    assert len(list_mistakes(FORWARDER_API_KEYS="alice:k,alice:l")) == 1


@check_each(
    ("name", "content"),
    [
        (None, "gpt-*=1.25/0.5/10, my/model=0/0/0"),
        ("prices.toml", '"gpt-*" = [1.25, 0.5, 10]\n"my/model" = [0, 0, 0]\n'),
        ("prices.json", '{"gpt-*": [1.25, 0.5, 10], "my/model": [0, 0, 0]}'),
    ],
)
def test_prices_are_read_inline_or_from_a_file(
    name: str | None, content: str, tmp_path: Path
) -> None:
    if name is not None:
        (tmp_path / name).write_text(content)
        content = str(tmp_path / name)

    assert read_settings(FORWARDER_PRICES=content).prices == {
        "gpt-*": (1.25, 0.5, 10.0),
        "my/model": (0.0, 0.0, 0.0),
    }


@check_each("content", ["gpt-4.1 = [1, 2, 3]", '"a" = [1, 2]', '"a" = "1/2/3"', "a = [", "\0"])
def test_file_of_prices_must_be_valid(content: str, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(content)
    [mistake] = list_mistakes(FORWARDER_PRICES=str(tmp_path / "prices.toml"))

    assert mistake.startswith("FORWARDER_PRICES must be PATTERN=INPUT/CACHED/OUTPUT")


def test_keys_of_the_settings_are_not_optional() -> None:
    assert read_settings(FORWARDER_CLIENT_KEYS="Optional").client_keys == "optional"
    assert list_mistakes(FORWARDER_CLIENT_KEYS="optional", FORWARDER_API_KEYS="sk-a") == [
        "FORWARDER_CLIENT_KEYS must not be optional with FORWARDER_API_KEYS"
    ]
    [mistake] = list_mistakes(FORWARDER_CLIENT_KEYS="never")
    assert mistake.startswith("FORWARDER_CLIENT_KEYS must be")


def test_key_style_of_an_unknown_key_is_a_mistake() -> None:
    keys = {"FORWARDER_API_KEYS": "sk-a,sk-b"}
    assert read_settings(FORWARDER_KEY_REASONING="sk-b=think", **keys).key_reasoning == {
        "sk-b": ("think",)
    }
    assert read_settings(FORWARDER_KEY_REASONING="sk-c=think").key_reasoning == {"sk-c": ("think",)}
    assert list_mistakes(FORWARDER_KEY_REASONING="sk-c=think", **keys) == [
        "FORWARDER_KEY_REASONING must use only keys from FORWARDER_API_KEYS"
    ]


def test_name_variable_uses_the_upstream_prefix() -> None:
    upstream = dataclasses.replace(read_chat(), name="my-vllm")

    assert upstream.name_variable("API_KEY") == "MY_VLLM_API_KEY"


def test_settings_are_hashable() -> None:
    assert {read_settings(CHAT_BASE_URL=URL): 1}[read_settings(CHAT_BASE_URL=URL)] == 1


@check_each(
    ("table", "settings", "other_fields"),
    [
        # Rows of mapped tools are collected in one field.
        (
            tuple(row for row in SETTINGS if not row.field.startswith("mapped_")),
            Settings,
            {"demo", "tracing", "log_color", "mapped_tools"},
        ),
        (
            tuple(row for row in UPSTREAM_SETTINGS if row.field not in config.ENDPOINT_FIELDS),
            UpstreamSettings,
            {"name", "registered", "endpoint", "replicas"},
        ),
    ],
)
def test_each_field_has_one_table_row(
    table: tuple[config.Setting, ...], settings: type, other_fields: set[str]
) -> None:
    fields = [row.field for row in table]
    assert sorted(fields) == sorted({f.name for f in dataclasses.fields(settings)} - other_fields)


WITHOUT_SECRETS = {
    "client_names": "the same keys as api_keys",
    "client_keys": "a word",
    "passthrough_key": "whether there is a key",
    "key_cooldown": "seconds",
    "rate_tokens": "a limit",
    "quirks": "their fields are redacted by name where they are sent",
    "mcp_servers": "the path of a file",
    "docs_dir": "a folder",
    "capture": "a folder",
    "capture_redact": "names of fields",
    "default_model": "a model",
    "codex_helper_model": "a model",
    "embedding_model": "a model",
    "aliases": "models",
    "globs": "models",
    "fallback": "upstreams",
    "public_url": "known to all clients",
}
"""Fields with the name of a secret, hidden fields, and fields of any text, without secrets."""

SAMPLES = (
    "http://host/a1b2c3d4e5f6a7b8c9d0",
    "postgresql://user:password@host/database",
    "redis://:password@host",
)
"""Values that contain a secret."""


def may_hold_secret(row: config.Setting, settings: type) -> bool:
    """Whether a setting has a secret's name, is hidden, or takes a value with a secret in it."""
    is_shown = {field.name: field.repr for field in dataclasses.fields(settings)}[row.field]
    return not is_shown or is_secret_name(row.suffix) or any(accepts(row, text) for text in SAMPLES)


def accepts(row: config.Setting, text: str) -> bool:
    try:
        row.parse(text)
    except ValueError:
        return False
    return True


@check_each(
    ("row", "settings"),
    [
        (row, settings)
        for table, settings in ((SETTINGS, Settings), (UPSTREAM_SETTINGS, UpstreamSettings))
        for row in table
        if row.field in {field.name for field in dataclasses.fields(settings)}
    ],
)
def test_each_setting_that_may_hold_a_secret_finds_it(row: config.Setting, settings: type) -> None:
    is_expected = may_hold_secret(row, settings) and row.field not in WITHOUT_SECRETS
    assert (row.list_secrets is not None) is is_expected


# -- load -----------------------------------------------------------------------------------------


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty real environment, and a working directory with two files of settings."""
    (tmp_path / ".env").write_text("CHAT_BASE_URL=http://file/v1\nCHAT_API=both\n")
    (tmp_path / "other.env").write_text("CHAT_BASE_URL=http://other/v1\n")
    monkeypatch.chdir(tmp_path)
    variables: dict[str, str] = {}
    monkeypatch.setattr("os.environ", variables)
    return variables


def test_environment_overrides_the_dotenv_file(environ: dict[str, str]) -> None:
    environ["CHAT_BASE_URL"] = URL
    (upstream,) = config.load_settings().upstreams
    assert (upstream.base_url, {*upstream.apis}) == (URL, {"chat", "responses"})


def test_dotenv_file_is_optional(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").unlink()
    assert config.load_settings().demo


def test_dotenv_variable_names_the_file(environ: dict[str, str]) -> None:
    environ["FORWARDER_DOTENV"] = "other.env"
    assert config.load_settings().upstreams[0].base_url == "http://other/v1"


def test_empty_dotenv_variable_reads_no_file(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environ["FORWARDER_DOTENV"] = ""
    monkeypatch.setattr(config, "load_dotenv", lambda *_, **__: pytest.fail("a file was read"))
    assert config.load_settings().demo


def test_named_dotenv_file_must_exist(environ: dict[str, str]) -> None:
    environ["FORWARDER_DOTENV"] = "absent.env"
    with pytest.raises(ConfigError, match="FORWARDER_DOTENV must be the path of a file"):
        config.load_settings()


# -- .env.example ---------------------------------------------------------------------------------


def read_documented_defaults() -> dict[str, str]:
    """Map variable -> default, from the lines ``#NAME=default`` except gunicorn's."""
    lines = re.findall(r"^#([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    return {n: v for n, v in lines if not n.startswith(("GUNICORN_", "WEB_"))}


def read_examples() -> list[str]:
    """Return the blocks of indented lines as the text of a .env file."""
    lines = re.findall(r"^#(?:     (\w+=.*)|.*)$|^$", EXAMPLE, re.MULTILINE)
    return ["\n".join(block) for is_example, block in groupby(lines, bool) if is_example]


def test_env_example_documents_every_setting() -> None:
    defaults = {f"FORWARDER_{row.suffix}": row.default or "" for row in SETTINGS}
    upstream = {f"CHAT_{row.suffix}": row.default or "" for row in UPSTREAM_SETTINGS}
    assert read_documented_defaults() == {**defaults, **upstream, "FORWARDER_DOTENV": ".env"}


def test_env_example_has_only_comments() -> None:
    assert all(line.startswith("#") for line in EXAMPLE.splitlines() if line)


def test_env_example_defaults_are_the_defaults() -> None:
    variables = read_documented_defaults()
    del variables["FORWARDER_UPSTREAMS"]  # if set, both base URLs are required
    assert Settings.from_env(variables) == read_settings()


@check_each("example", read_examples())
def test_env_example_snippets_are_valid(example: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(example)
    variables = {name: value or "" for name, value in dotenv_values(tmp_path / ".env").items()}
    settings = Settings.from_env({"CHAT_BASE_URL": URL, **variables})
    assert not settings.demo


def test_env_example_has_the_common_providers() -> None:
    text = "\n".join(read_examples())
    for mark in ("dashscope", "api.deepseek.com", "api.openai.com", "azure.com", "vllm", ":11434"):
        assert mark in text


@check_each("names", [PROFILES.keys(), PROFILE_FIELDS])
def test_env_example_lists_every_provider_and_quirk(names: set[str]) -> None:
    assert ", ".join(sorted(names)) in re.sub(r",\n# ", ", ", EXAMPLE)

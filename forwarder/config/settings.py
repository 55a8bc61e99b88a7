"""Reads the environment once into frozen settings.

Two tables declare all settings: ``SETTINGS`` holds the ``FORWARDER_…`` variables, and
``UPSTREAM_SETTINGS`` holds the variables that each upstream has under its own prefix
(``CHAT_BASE_URL`` for the upstream ``chat``). A row names the variable, its field, its parser and
its default as text; ``.env.example`` documents the same rows for operators. Settings of gunicorn
are in `gunicorn_conf.py`.

- Only `load_settings` reads ``os.environ``; all other functions take a mapping.
- All mistakes are collected before they are reported, one line each.
- No line repeats a value, because a key may have been pasted into the wrong variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dotenv import load_dotenv

from forwarder.config import parsers, upstream_endpoints
from forwarder.config.parsers import (
    ENV_PREFIX,
    PASSTHROUGH_KEY,
    SEARCH_ENGINES,
    Fallback,
    McpTarget,
    Parser,
    Price,
    ToolSource,
)
from forwarder.config.secret_values import (
    find_connection_secrets,
    find_named_secrets,
    find_path_secrets,
    list_key,
    list_keys,
)
from forwarder.config.upstream_endpoints import Endpoint, GroupMember, list_endpoints, make_origin
from forwarder.protocols.hosted_tool_names import HOSTED_TOOLS

DOTENV_VARIABLE = "FORWARDER_DOTENV"
TRACING_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables; either enables tracing. OpenTelemetry's exporter reads them."""


class ConfigError(Exception):
    """The environment is invalid; ``mistakes`` has one line for each reason."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class UpstreamSettings:
    """One upstream. Time-outs are in seconds; ``apis`` holds ``"chat"``, ``"responses"`` or both.

    ``aliases`` maps a client's model name, or a pattern of names, to the upstream's; ``globs`` are
    ``fnmatchcase`` patterns. With ``passthrough_key`` the client's own key goes upstream and
    ``api_key`` is ``None``. ``hosted_tools`` are the tools that the upstream runs itself, ``None``
    if its profile decides. ``provider`` is ``""`` if the provider is detected from the address.
    ``fallback`` lists other upstreams in the order of attempts. 0, or ``None`` for limits, disables
    a feature. ``context_window`` is in tokens, ``None`` if unknown. ``model_info`` maps model
    patterns to fields of Codex's model catalog. ``registered`` is true for a model registered at
    run time.

    An upstream with several keys or hosts has such an object for each endpoint: the first is the
    upstream itself, and its ``replicas`` are the others. ``endpoint`` is None if there is only one.
    ``key_cooldown`` is the cooldown of an endpoint that refuses requests and names no time.
    """

    name: str
    base_url: str
    api_key: str | None = field(repr=False)
    passthrough_key: bool
    apis: frozenset[str]
    aliases: Mapping[str, str] = field(hash=False)
    globs: tuple[str, ...]
    provider: str
    headers: Mapping[str, str] = field(repr=False, hash=False)
    query: Mapping[str, str] = field(repr=False, hash=False)
    quirks: Mapping[str, Any] = field(repr=False, hash=False)
    hosted_tools: frozenset[str] | None
    connect_timeout: float
    first_byte_timeout: float
    whole_timeout: float
    idle_timeout: float
    total_timeout: float | None
    max_retries: int
    retry_wait: float
    key_cooldown: float
    fallback: tuple[Fallback, ...]
    breaker_failures: int
    breaker_share: float
    breaker_window: float
    breaker_cooldown: float
    max_concurrent: int | None
    context_window: int | None
    model_info: Mapping[str, Mapping[str, Any]] = field(hash=False)
    registered: bool = False
    endpoint: Endpoint | None = None
    replicas: tuple[UpstreamSettings, ...] = field(default=(), repr=False, hash=False)

    @property
    def endpoints(self) -> tuple[UpstreamSettings, ...]:
        """The settings of all endpoints; of a replica only its own."""
        return (self, *self.replicas)

    @property
    def origin(self) -> str:
        """The name of this endpoint in stored data; only it has the objects that it stores."""
        return self.name if self.endpoint is None else self.endpoint.origin

    @property
    def entry_name(self) -> str:
        """The name of this endpoint in `PerUpstream`: the upstream's for the first endpoint."""
        is_first = self.endpoint is None or (self.endpoint.host, self.endpoint.key) == (1, 1)
        return self.name if is_first else self.origin

    def find_endpoint(self, origin: str) -> UpstreamSettings | None:
        """Return the endpoint of an origin; the first one for the upstream's own name."""
        if origin == self.name:
            return self
        return next((each for each in self.endpoints if each.has_origin(origin)), None)

    def has_origin(self, origin: str) -> bool:
        """Return whether an origin names this endpoint, even if the upstream has no others now."""
        if self.endpoint is not None:
            return self.endpoint.origin == origin
        return make_origin(self.name, self.base_url, self.api_key) == origin

    def name_variable(self, suffix: str) -> str:
        """Return the environment variable of a setting, such as ``CHAT_API_KEY``."""
        return parsers.make_prefix(self.name) + suffix


@dataclass(frozen=True)
class Settings:
    """The whole configuration. Intervals are in seconds, ``max_body`` and ``fetch_max`` in bytes.

    ``client_names`` maps each of ``api_keys`` to its configured name, or to None. ``client_keys``
    is ``auto``, ``required`` or ``optional``; `forwarder.client_keys` applies it.
    ``chat_reasoning`` and ``responses_reasoning`` are styles of `client_reasoning_style.py`;
    ``key_reasoning`` maps a client's key to styles that override them. The forwarder fetches URLs
    only if ``fetch`` is true *and* clients need keys. ``public_url`` is ``None`` if
    clients reach the forwarder at the address in their own requests. ``usage_days`` is 0 if usage
    is kept forever; ``prices`` maps patterns of models to prices. ``rate_requests`` and
    ``rate_tokens`` are limits such as ``60/minute``, or ``None``. ``capture`` is ``off``,
    ``memory`` or a directory; ``capture_max`` is in bytes. ``background_grace`` is ``None`` if
    background work has the grace period of all other answers; ``background_unsaved_max`` is in
    bytes. ``files`` is ``auto``, ``store`` or ``upstream``; ``file_max`` and ``files_max`` (of one
    client) are in bytes. ``mcp_servers`` is the path of a file; ``mapped_tools`` are MCP
    tools by the name of the hosted tool that they stand for. ``tools_for_all`` are
    names of hosted tools, and ``mcp:`` with a label. ``tool_timeout`` is in seconds.
    ``docs_dir`` is the folder of the built documentation, ``None`` if it is not served. ``demo`` is
    true if no upstream is configured and ``upstreams`` are the built-in demo. ``log_color`` says
    whether a text log has colours, ``None`` if it has them on a terminal only.
    """

    upstreams: tuple[UpstreamSettings, ...]
    demo: bool
    groups: Mapping[str, tuple[GroupMember, ...]] = field(hash=False)
    default_model: str | None
    hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    client_headers: tuple[str, ...]
    codex_helper_model: str | None
    api_keys: tuple[str, ...] = field(repr=False)
    client_names: Mapping[str, str | None] = field(repr=False, hash=False)
    client_keys: str
    admin_keys: tuple[str, ...] = field(repr=False)
    chat_reasoning: str
    responses_reasoning: str
    key_reasoning: Mapping[str, tuple[str, ...]] = field(repr=False, hash=False)
    chat_default_stream: bool
    hosted_tools: str
    mcp_urls: bool
    mcp_servers: str | None
    mapped_tools: Mapping[str, McpTarget] = field(hash=False)
    tools_for_all: tuple[str, ...]
    tool_timeout: float
    web_search: ToolSource
    web_search_url: str | None
    web_search_key: str | None = field(repr=False)
    image_generation: ToolSource
    stop_drain: bool
    max_choices: int
    strict: bool
    keepalive: float
    max_body: int
    max_json_values: int
    max_schema: int
    max_schema_nodes: int
    queue_timeout: float
    head_timeout: float
    body_timeout: float
    send_timeout: float
    min_send_rate: int
    max_chunk_overhead: int
    max_body_memory: int
    max_form_files: int
    max_answer: int
    websocket_idle: float
    websocket_memory: int
    reasoning_ttl: float
    public_url: str | None
    max_concurrent: int | None
    fetch: bool
    fetch_allow: tuple[str, ...]
    fetch_max: int
    fetch_timeout: float
    fetch_lookups: int
    remote_allow: tuple[str, ...]
    health_interval: float
    health_ask_interval: float
    upload_max_age: float
    shared_files: bool
    files: str
    file_max: int
    files_max: int
    embedding_model: str | None
    secret_keys: tuple[str, ...] = field(repr=False)
    database_url: str = field(repr=False)
    store_days: float
    store_max_size: int
    background_grace: float | None
    background_attempts: int
    background_unsaved_age: float
    background_unsaved_max: int
    log_level: str
    log_format: str
    log_sample: float
    log_bodies: bool
    ready_ttl: float
    metrics: bool
    metrics_key: str | None = field(repr=False)
    usage_days: float
    usage_interval: float
    prices: Mapping[str, Price] = field(hash=False)
    rate_requests: str | None
    rate_tokens: str | None
    rate_storage: str = field(repr=False)
    rate_when_down: str
    rate_timeout: float
    trusted_proxies: int
    capture: str
    capture_count: int
    capture_max: int
    capture_age: float
    capture_redact: tuple[str, ...]
    docs_dir: str | None
    console: bool
    tracing: bool
    log_color: bool | None

    @property
    def client_count(self) -> int:
        """The number of clients with a key of their own in the settings."""
        return len({name or f":{key}" for key, name in self.client_names.items()})

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Parse the variables in ``environ``; raise ``ConfigError`` with all mistakes."""
        reader = EnvironmentReader(environ)
        values = reader.read_table(ENV_PREFIX, SETTINGS)
        names = values.pop("upstreams") or ()
        targets = {name: values.pop(f"mapped_{name}") for name in MAPPABLE_TOOLS}
        values["mapped_tools"] = MappingProxyType(
            {name: each for name, each in targets.items() if each is not None}
        )
        reader.check_variable_names(names)
        upstreams, demo = read_upstreams(reader, names)
        reader.check_fallbacks(upstreams)
        reader.check_groups(upstreams, values)
        reader.check_reasoning_keys(values)
        reader.check_client_keys(values)
        reader.check_web_search(upstreams, values)
        reader.check_image_generation(upstreams, values)
        reader.check_embedding_model(upstreams, values)
        if reader.mistakes:
            raise ConfigError(list(dict.fromkeys(reader.mistakes)))
        tracing = any(reader.environ.get(name) for name in TRACING_VARIABLES)
        return cls(
            upstreams=upstreams,
            demo=demo,
            tracing=tracing,
            log_color=read_color_choice(reader.environ),
            **values,
        )


def read_color_choice(environ: Mapping[str, str]) -> bool | None:
    """Return whether the user wants colours, by the variables that Python reads; or ``None``."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return False if environ.get("TERM") == "dumb" else None


def load_settings() -> Settings:
    """Read the environment merged over the file in ``FORWARDER_DOTENV`` (default ``.env``).

    ``FORWARDER_DOTENV=""`` reads no file. Raises ``ConfigError`` with all mistakes.
    """
    path = os.environ.get(DOTENV_VARIABLE, ".env")
    if DOTENV_VARIABLE in os.environ and path and not Path(path).is_file():
        raise ConfigError([f"{DOTENV_VARIABLE} must be the path of a file, or empty to read none"])
    if path:
        load_dotenv(path, override=False)
    return Settings.from_env(os.environ)


def make_upstream_settings(name: str, **fields: Any) -> UpstreamSettings:
    """Create settings of an upstream outside the environment, with defaults for other fields."""
    values = EnvironmentReader({}).read_table(
        "", UPSTREAM_SETTINGS, BASE_URL="http://unset.invalid"
    )
    values = {name: value for name, value in values.items() if name not in ENDPOINT_FIELDS}
    return UpstreamSettings(name=name, **{**values, **fields})


def add_replicas(
    upstream: UpstreamSettings,
    base_urls: Sequence[str],
    api_keys: Sequence[str],
    weights: Sequence[float] = (),
) -> UpstreamSettings:
    """Return the settings of an upstream with an endpoint for each key at each address."""
    endpoints = [
        replace(upstream, endpoint=parts.endpoint, base_url=parts.base_url, api_key=parts.api_key)
        for parts in list_endpoints(upstream.name, base_urls, api_keys, weights)
    ]
    return replace(endpoints[0], replicas=tuple(endpoints[1:])) if endpoints else upstream


# --- the tables ---------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A variable without its prefix, its field, its parser, and its default as text.

    A default of ``None`` leaves the field ``None``. An empty variable counts as unset.
    ``list_secrets`` returns the secrets in a value that may contain some.
    """

    suffix: str
    field: str
    parse: Parser[Any]
    default: str | None
    list_secrets: Callable[[Any], Iterable[str]] | None = None


MAPPABLE_TOOLS = tuple(name for name in HOSTED_TOOLS if name != "mcp")
"""Hosted tools that an MCP tool can stand for."""

SETTINGS = (
    Setting("UPSTREAMS", "upstreams", parsers.parse_names, "chat,responses"),
    Setting("GROUPS", "groups", upstream_endpoints.parse_groups, ""),
    Setting("DEFAULT_MODEL", "default_model", str, None),
    Setting("CODEX_HELPER_MODEL", "codex_helper_model", str, None),
    Setting("API_KEYS", "api_keys", parsers.parse_client_keys, "", list_keys),
    Setting("API_KEYS", "client_names", parsers.parse_client_names, ""),
    Setting(
        "CLIENT_KEYS",
        "client_keys",
        parsers.make_word_parser("auto", "required", "optional"),
        "auto",
    ),
    Setting("ADMIN_KEYS", "admin_keys", parsers.parse_keys, "", list_keys),
    Setting("HOSTS", "hosts", parsers.parse_host_patterns, ""),
    Setting("CORS_ORIGINS", "cors_origins", parsers.parse_origins, ""),
    Setting("CLIENT_HEADERS", "client_headers", parsers.parse_client_headers, ""),
    Setting("CHAT_REASONING", "chat_reasoning", parsers.parse_chat_style, "auto"),
    Setting("RESPONSES_REASONING", "responses_reasoning", parsers.parse_responses_style, "auto"),
    Setting("KEY_REASONING", "key_reasoning", parsers.parse_key_styles, "", list_keys),
    Setting("CHAT_DEFAULT_STREAM", "chat_default_stream", parsers.parse_flag, "false"),
    Setting("HOSTED_TOOLS", "hosted_tools", parsers.make_word_parser("drop", "refuse"), "drop"),
    Setting("MCP_URLS", "mcp_urls", parsers.parse_on_off, "on"),
    Setting("MCP_SERVERS", "mcp_servers", str, None),
    *(
        Setting(f"HOSTED_TOOL_{name.upper()}", f"mapped_{name}", parsers.parse_mcp_target, None)
        for name in MAPPABLE_TOOLS
    ),
    Setting("TOOLS_FOR_ALL", "tools_for_all", parsers.parse_extra_tools, ""),
    Setting("TOOL_TIMEOUT", "tool_timeout", parsers.parse_seconds, "60"),
    Setting("WEB_SEARCH", "web_search", parsers.parse_search_source, "off"),
    Setting("WEB_SEARCH_URL", "web_search_url", parsers.parse_service_url, None, find_path_secrets),
    Setting("WEB_SEARCH_KEY", "web_search_key", parsers.parse_key, None, list_key),
    Setting("IMAGE_GENERATION", "image_generation", parsers.parse_image_source, "off"),
    Setting("STOP_DRAIN", "stop_drain", parsers.parse_flag, "false"),
    Setting("MAX_CHOICES", "max_choices", parsers.make_number_parser(int, 1, 128, ""), "8"),
    Setting("STRICT", "strict", parsers.parse_flag, "false"),
    Setting("KEEPALIVE", "keepalive", parsers.parse_seconds, "15"),
    Setting("MAX_BODY", "max_body", parsers.parse_size, "64m"),
    Setting(
        "MAX_JSON_VALUES",
        "max_json_values",
        parsers.make_number_parser(int, 1000, 100_000_000, " of values"),
        "500000",
    ),
    Setting("MAX_SCHEMA", "max_schema", parsers.parse_size, "256k"),
    Setting(
        "MAX_SCHEMA_NODES",
        "max_schema_nodes",
        parsers.make_number_parser(int, 1000, 10_000_000, " of nodes"),
        "50000",
    ),
    Setting("QUEUE_TIMEOUT", "queue_timeout", parsers.parse_seconds_from_zero, "2"),
    Setting("HEAD_TIMEOUT", "head_timeout", parsers.parse_seconds, "10"),
    Setting("BODY_TIMEOUT", "body_timeout", parsers.parse_seconds, "30"),
    Setting("SEND_TIMEOUT", "send_timeout", parsers.parse_seconds, "60"),
    Setting("MIN_SEND_RATE", "min_send_rate", parsers.parse_size, "4k"),
    Setting("MAX_CHUNK_OVERHEAD", "max_chunk_overhead", parsers.parse_size, "64k"),
    Setting("MAX_BODY_MEMORY", "max_body_memory", parsers.parse_size, "192m"),
    Setting("MAX_FORM_FILES", "max_form_files", parsers.parse_size, "1g"),
    Setting("MAX_ANSWER", "max_answer", parsers.parse_size, "64m"),
    Setting("WEBSOCKET_MEMORY", "websocket_memory", parsers.parse_size, "32m"),
    Setting("WEBSOCKET_IDLE", "websocket_idle", parsers.parse_seconds, "900"),
    Setting("REASONING_TTL", "reasoning_ttl", parsers.parse_seconds_from_zero, "21600"),
    Setting("PUBLIC_URL", "public_url", parsers.parse_public_url, None),
    Setting("MAX_CONCURRENT", "max_concurrent", parsers.parse_limit, "0"),
    Setting("FETCH", "fetch", parsers.parse_on_off, "on"),
    Setting("FETCH_ALLOW", "fetch_allow", parsers.parse_hosts, ""),
    Setting("FETCH_MAX", "fetch_max", parsers.parse_size, "20m"),
    Setting("FETCH_TIMEOUT", "fetch_timeout", parsers.parse_seconds, "10"),
    Setting("FETCH_LOOKUPS", "fetch_lookups", parsers.make_number_parser(int, 1, 256, ""), "8"),
    Setting("REMOTE_ALLOW", "remote_allow", parsers.parse_hosts, ""),
    Setting("HEALTH_INTERVAL", "health_interval", parsers.parse_seconds_from_zero, "0"),
    Setting("HEALTH_ASK_INTERVAL", "health_ask_interval", parsers.parse_seconds_from_zero, "60"),
    Setting("UPLOAD_MAX_AGE", "upload_max_age", parsers.parse_seconds, "3600"),
    Setting("SHARED_FILES", "shared_files", parsers.parse_flag, "false"),
    Setting("FILES", "files", parsers.make_word_parser("auto", "store", "upstream"), "auto"),
    Setting("FILE_MAX", "file_max", parsers.parse_size, "64m"),
    Setting("FILES_MAX", "files_max", parsers.parse_size, "512m"),
    Setting("EMBEDDING_MODEL", "embedding_model", str, None),
    Setting(
        "SECRET_KEY", "secret_keys", lambda text: tuple(parsers.split_commas(text)), "", list_keys
    ),
    Setting(
        "DATABASE_URL",
        "database_url",
        parsers.parse_database,
        "sqlite:///forwarder.db",
        find_connection_secrets,
    ),
    Setting(
        "STORE_DAYS", "store_days", parsers.make_number_parser(float, 0, 36500, " of days"), "30"
    ),
    Setting("STORE_MAX_SIZE", "store_max_size", parsers.parse_size, "8g"),
    Setting("BACKGROUND_GRACE", "background_grace", parsers.parse_seconds_from_zero, None),
    Setting(
        "BACKGROUND_ATTEMPTS",
        "background_attempts",
        parsers.make_number_parser(int, 1, 100, ""),
        "3",
    ),
    Setting(
        "BACKGROUND_UNSAVED_AGE", "background_unsaved_age", parsers.parse_seconds_from_zero, "900"
    ),
    Setting("BACKGROUND_UNSAVED_MAX", "background_unsaved_max", parsers.parse_size, "64m"),
    Setting(
        "LOG_LEVEL",
        "log_level",
        parsers.make_word_parser("DEBUG", "INFO", "WARNING", "ERROR"),
        "INFO",
    ),
    Setting("LOG_FORMAT", "log_format", parsers.make_word_parser("auto", "json", "text"), "auto"),
    Setting("LOG_SAMPLE", "log_sample", parsers.make_number_parser(float, 0, 1, ""), "0"),
    Setting("LOG_BODIES", "log_bodies", parsers.parse_flag, "false"),
    Setting("READY_TTL", "ready_ttl", parsers.parse_seconds_from_zero, "5"),
    Setting("METRICS", "metrics", parsers.parse_flag, "true"),
    Setting("METRICS_KEY", "metrics_key", parsers.parse_key, None, list_key),
    Setting(
        "USAGE_DAYS", "usage_days", parsers.make_number_parser(float, 0, 36500, " of days"), "400"
    ),
    Setting("USAGE_INTERVAL", "usage_interval", parsers.parse_seconds, "5"),
    Setting("PRICES", "prices", parsers.parse_prices, ""),
    Setting("RATE_LIMIT_REQUESTS", "rate_requests", parsers.parse_rate, None),
    Setting("RATE_LIMIT_TOKENS", "rate_tokens", parsers.parse_rate, None),
    Setting(
        "RATE_LIMIT_STORAGE",
        "rate_storage",
        parsers.parse_storage,
        "memory://",
        find_connection_secrets,
    ),
    Setting(
        "RATE_LIMIT_WHEN_DOWN",
        "rate_when_down",
        parsers.make_word_parser("allow", "refuse"),
        "allow",
    ),
    Setting("RATE_LIMIT_TIMEOUT", "rate_timeout", parsers.parse_seconds, "0.07"),
    Setting("TRUSTED_PROXIES", "trusted_proxies", parsers.make_number_parser(int, 0, 16, ""), "0"),
    Setting("CAPTURE", "capture", parsers.parse_capture, "off"),
    Setting(
        "CAPTURE_COUNT", "capture_count", parsers.make_number_parser(int, 1, 100_000, ""), "100"
    ),
    Setting("CAPTURE_MAX", "capture_max", parsers.parse_size, "2m"),
    Setting("CAPTURE_AGE", "capture_age", parsers.parse_seconds, "86400"),
    Setting("CAPTURE_REDACT", "capture_redact", parsers.parse_fields, ""),
    Setting("DOCS_DIR", "docs_dir", parsers.parse_docs_folder, "site"),
    Setting("CONSOLE", "console", parsers.parse_flag, "true"),
)


def parse_first_url(text: str) -> str:
    """Parse the addresses of an upstream; return the first one."""
    return upstream_endpoints.parse_base_urls(text)[0]


def parse_first_key(text: str) -> str | None:
    """Parse the keys of an upstream; return the first one, or ``None`` without keys."""
    return next(iter(upstream_endpoints.parse_upstream_keys(text)), None)


ENDPOINT_FIELDS = ("base_urls", "api_keys", "weights")
"""Fields of the table that become the endpoints of an upstream."""

UPSTREAM_SETTINGS = (
    Setting("BASE_URL", "base_url", parse_first_url, "", find_path_secrets),
    Setting("BASE_URL", "base_urls", upstream_endpoints.parse_base_urls, ""),
    Setting("WEIGHTS", "weights", upstream_endpoints.parse_weights, ""),
    Setting("API_KEY", "api_key", parse_first_key, "", list_key),
    Setting("API_KEY", "api_keys", upstream_endpoints.parse_upstream_keys, ""),
    Setting("API_KEY", "passthrough_key", lambda text: text == PASSTHROUGH_KEY, ""),
    Setting("API", "apis", parsers.parse_api, "chat"),
    Setting("MODELS", "aliases", parsers.parse_aliases, ""),
    Setting("MODELS", "globs", parsers.parse_globs, ""),
    Setting("PROVIDER", "provider", parsers.parse_provider, ""),
    Setting("HEADERS", "headers", parsers.parse_headers, "", find_named_secrets),
    Setting("QUERY", "query", parsers.parse_query, "", find_named_secrets),
    Setting("QUIRKS", "quirks", parsers.parse_quirks, "{}"),
    Setting("HOSTED_TOOLS", "hosted_tools", parsers.parse_tool_names, None),
    Setting("CONNECT_TIMEOUT", "connect_timeout", parsers.parse_seconds, "10"),
    Setting("FIRST_BYTE_TIMEOUT", "first_byte_timeout", parsers.parse_seconds, "300"),
    Setting("WHOLE_TIMEOUT", "whole_timeout", parsers.parse_seconds, "600"),
    Setting("IDLE_TIMEOUT", "idle_timeout", parsers.parse_seconds, "300"),
    Setting("TOTAL_TIMEOUT", "total_timeout", parsers.parse_seconds_or_none, "0"),
    Setting("MAX_RETRIES", "max_retries", parsers.make_number_parser(int, 0, 5, ""), "0"),
    Setting("RETRY_WAIT", "retry_wait", parsers.parse_seconds_from_zero, "20"),
    Setting("KEY_COOLDOWN", "key_cooldown", parsers.parse_seconds, "15"),
    Setting("FALLBACK", "fallback", parsers.parse_fallbacks, ""),
    Setting(
        "BREAKER_FAILURES", "breaker_failures", parsers.make_number_parser(int, 0, 1000, ""), "10"
    ),
    Setting("BREAKER_SHARE", "breaker_share", parsers.make_number_parser(float, 0, 1, ""), "0.5"),
    Setting("BREAKER_WINDOW", "breaker_window", parsers.parse_seconds, "30"),
    Setting("BREAKER_COOLDOWN", "breaker_cooldown", parsers.parse_seconds, "15"),
    Setting("MAX_CONCURRENT", "max_concurrent", parsers.parse_limit, "0"),
    Setting("CONTEXT_WINDOW", "context_window", parsers.parse_tokens, "0"),
    Setting("MODEL_INFO", "model_info", parsers.parse_model_info, "{}"),
)

# Variables whose values are implied by the name of a provider or an upstream.
IMPLIED_BY_PROVIDER = {
    "demo": {"BASE_URL": "http://demo.invalid/v1"},
    "openai": {"BASE_URL": "https://api.openai.com/v1"},
}
IMPLIED_BY_NAME = {"responses": {"API": "responses"}}
DEMO_ENVIRONMENT = {"CHAT_PROVIDER": "demo", "RESPONSES_PROVIDER": "demo"}

_RENAMED = {"KEY_REST": "KEY_COOLDOWN"}
"""Settings of earlier versions whose new name is too different to be found by similarity."""

# Kubernetes sets these in every pod of the namespace if a service is called "forwarder".
_KUBERNETES_VARIABLES = re.compile(r"FORWARDER_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_\w+)?)")


# --- reading ------------------------------------------------------------------------------------


class EnvironmentReader:
    """Parses an environment and collects the mistakes in it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: value.strip() for name, value in environ.items()}
        self.mistakes: list[str] = []

    def read_table(self, prefix: str, table: tuple[Setting, ...], **implied: str) -> dict[str, Any]:
        """Return field -> value for each row; ``implied`` (suffix -> text) overrides defaults."""
        return {
            row.field: self._read_value(
                prefix + row.suffix, row, implied.get(row.suffix, row.default)
            )
            for row in table
        }

    def _read_value(self, variable: str, row: Setting, default: str | None) -> Any:
        text = self.environ.get(variable) or default
        try:
            return None if text is None else row.parse(text)
        except ValueError as error:
            self.mistakes.append(f"{variable} must be {error}")
            return None

    def read_upstream(self, name: str) -> UpstreamSettings:
        prefix = parsers.make_prefix(name)
        implied = IMPLIED_BY_NAME.get(name, {}) | self._get_provider_defaults(prefix)
        values = self.read_table(prefix, UPSTREAM_SETTINGS, **implied)
        base_urls, api_keys, weights = (values.pop(name) or () for name in ENDPOINT_FIELDS)
        if weights and len(weights) != len(base_urls):
            self.mistakes.append(f"{prefix}WEIGHTS must have one number for each address")
            weights = ()
        if len(base_urls) * max(1, len(api_keys)) > upstream_endpoints.MAX_ENDPOINTS:
            self.mistakes.append(
                f"{prefix}BASE_URL and {prefix}API_KEY must make at most "
                f"{upstream_endpoints.MAX_ENDPOINTS} combinations"
            )
            return UpstreamSettings(name=name, **values)
        return add_replicas(UpstreamSettings(name=name, **values), base_urls, api_keys, weights)

    def is_present(self, name: str) -> bool:
        prefix = parsers.make_prefix(name)
        values = (self.environ.get(prefix + suffix) for suffix in ("BASE_URL", "API_KEY"))
        return any(values) or bool(self._get_provider_defaults(prefix))

    def _get_provider_defaults(self, prefix: str) -> dict[str, str]:
        return IMPLIED_BY_PROVIDER.get(self.environ.get(prefix + "PROVIDER", "").lower(), {})

    def check_fallbacks(self, upstreams: tuple[UpstreamSettings, ...]) -> None:
        """Record a mistake for each fallback to an unknown upstream or to itself."""
        names = {upstream.name for upstream in upstreams}
        for upstream in upstreams:
            to = {fallback.upstream for fallback in upstream.fallback or ()}
            if not to <= names - {upstream.name}:
                variable = parsers.make_prefix(upstream.name) + "FALLBACK"
                self.mistakes.append(f"{variable} must be {parsers.FALLBACKS_MESSAGE}")

    def check_groups(self, upstreams: tuple[UpstreamSettings, ...], values: dict[str, Any]) -> None:
        """Record a mistake for a group with a member at an unknown upstream.

        A group name that would hide a model of an upstream, such as ``chat/fast``, is one too.
        """
        names, groups = {upstream.name for upstream in upstreams}, values["groups"] or {}
        members = {each.upstream for group in groups.values() for each in group}
        hidden = {head for head, slash, _ in (name.partition("/") for name in groups) if slash}
        if not members <= names or hidden & names:
            self.mistakes.append(f"{ENV_PREFIX}GROUPS must be {upstream_endpoints.GROUPS_MESSAGE}")

    def check_reasoning_keys(self, values: dict[str, Any]) -> None:
        """Record a mistake if a key with a reasoning style is not a client key."""
        known, styled = values["api_keys"], values["key_reasoning"] or {}
        if known and not styled.keys() <= set(known):
            self.mistakes.append(
                f"{ENV_PREFIX}KEY_REASONING must use only keys from {ENV_PREFIX}API_KEYS"
            )

    def check_client_keys(self, values: dict[str, Any]) -> None:
        """Record a mistake if keys are in the settings but not required."""
        if values["api_keys"] and values["client_keys"] == "optional":
            self.mistakes.append(
                f"{ENV_PREFIX}CLIENT_KEYS must not be optional with {ENV_PREFIX}API_KEYS"
            )

    def check_web_search(
        self, upstreams: tuple[UpstreamSettings, ...], values: dict[str, Any]
    ) -> None:
        """Record a mistake if the web search lacks an address, a key, an upstream or servers."""
        source: ToolSource | None = values["web_search"]
        if source is None:
            return
        suffix = "WEB_SEARCH_URL" if source.kind == "searxng" else "WEB_SEARCH_KEY"
        if source.kind in SEARCH_ENGINES and not self.environ.get(ENV_PREFIX + suffix):
            self.mistakes.append(f"{ENV_PREFIX}{suffix} must be set for this web search")
        if source.kind == "upstream" and not has_own_key(upstreams, source.name):
            self.mistakes.append(
                f"{ENV_PREFIX}WEB_SEARCH=upstream:NAME/MODEL must name an upstream with a key of "
                "its own"
            )
        if source.kind == "mcp" and not self.environ.get(ENV_PREFIX + "MCP_SERVERS"):
            self.mistakes.append(
                f"{ENV_PREFIX}WEB_SEARCH=mcp:LABEL/TOOL needs a server in {ENV_PREFIX}MCP_SERVERS"
            )

    def check_image_generation(
        self, upstreams: tuple[UpstreamSettings, ...], values: dict[str, Any]
    ) -> None:
        """Record a mistake if the maker of images has no upstream with a key of its own."""
        source: ToolSource | None = values["image_generation"]
        if source is not None and source.kind != "off" and not has_own_key(upstreams, source.name):
            self.mistakes.append(
                f"{ENV_PREFIX}IMAGE_GENERATION must name an upstream with a key of its own"
            )

    def check_embedding_model(
        self, upstreams: tuple[UpstreamSettings, ...], values: dict[str, Any]
    ) -> None:
        """Record a mistake if the embedding model has no upstream with a key of its own.

        Files are embedded in the background, where no client's key is available.
        """
        name = values["embedding_model"]
        if name is None:
            return
        prefix, _, model = name.partition("/")
        if not model or not has_own_key(upstreams, prefix):
            self.mistakes.append(
                f"{ENV_PREFIX}EMBEDDING_MODEL must be an upstream with a key of its own, a slash, "
                "and a model"
            )

    def check_variable_names(self, names: tuple[str, ...]) -> None:
        """Record a mistake for each unknown variable that looks like a setting.

        Under the forwarder's own prefix every unknown variable is a mistake. Other programs may use
        an upstream's prefix too, so there only variables similar to a setting are mistakes.
        """
        tables = {ENV_PREFIX: SETTINGS} | {
            parsers.make_prefix(name): UPSTREAM_SETTINGS for name in names
        }
        known = {prefix + row.suffix for prefix, table in tables.items() for row in table}
        for variable in sorted(self.environ.keys() - known - {DOTENV_VARIABLE}):
            prefix = max((p for p in tables if variable.startswith(p)), key=len, default="")
            suffixes = [row.suffix for row in tables.get(prefix, ())]
            suffix = variable.removeprefix(prefix)
            near = get_close_matches(suffix, suffixes, n=1, cutoff=0.85)
            if suffix in _RENAMED and _RENAMED[suffix] in suffixes:
                near = [_RENAMED[suffix]]
            if near:
                hint = f"did you mean {prefix}{near[0]}?"
                self.mistakes.append(f"{variable} is not a setting; {hint}")
            elif prefix == ENV_PREFIX and not _KUBERNETES_VARIABLES.fullmatch(variable):
                self.mistakes.append(
                    f"{variable} is not a setting; .env.example lists all settings"
                )


def has_own_key(upstreams: tuple[UpstreamSettings, ...], name: str) -> bool:
    """Whether an upstream is configured and can be called without a client's key."""
    return any(name == each.name and not each.passthrough_key for each in upstreams)


def read_upstreams(
    reader: EnvironmentReader, names: tuple[str, ...]
) -> tuple[tuple[UpstreamSettings, ...], bool]:
    """Return the upstreams, and whether they are only the demo.

    An upstream that the operator names must be complete. A default upstream without an address is
    left out.
    """
    if not reader.environ.get(ENV_PREFIX + "UPSTREAMS"):
        names = tuple(name for name in names if reader.is_present(name))
    if names:
        return tuple(reader.read_upstream(name) for name in names), False
    return tuple(
        EnvironmentReader(DEMO_ENVIRONMENT).read_upstream(name) for name in ("chat", "responses")
    ), True

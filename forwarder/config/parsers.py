"""Parsers from the text of an environment variable to a value.

A parser raises a ValueError whose message completes the sentence "VARIABLE must be ...". No
message repeats the text, because a key may have been pasted into the wrong variable.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import wraps
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from forwarder.protocols.chat import CHAT
from forwarder.protocols.hosted_tool_names import EVERY_TOOL, HOSTED_TOOLS
from forwarder.protocols.registry import ALL_STYLES
from forwarder.protocols.responses import RESPONSES

ENV_PREFIX = "FORWARDER_"
PASSTHROUGH_KEY = "passthrough"
CHAT_API = frozenset({CHAT.name})
RESPONSES_API = frozenset({RESPONSES.name})

T = TypeVar("T")
N = TypeVar("N", int, float)
Parser = Callable[[str], T]


def make_prefix(name: str) -> str:
    """Return the prefix of an upstream's variables: ``my-vllm`` -> ``MY_VLLM_``."""
    return name.upper().replace("-", "_") + "_"


def is_pattern(model: str) -> bool:
    """Return whether ``fnmatchcase`` treats ``model`` as a pattern."""
    return any(sign in model for sign in "*?[")


def with_error_message(allowed: str) -> Callable[[Parser[T]], Parser[T]]:
    """Wrap a parser so that every ValueError or LookupError becomes ``ValueError(allowed)``."""

    def wrap_parser(parse: Parser[T]) -> Parser[T]:
        @wraps(parse)
        def parse_text(text: str) -> T:
            try:
                return parse(text)
            except (ValueError, LookupError):
                raise ValueError(allowed) from None

        return parse_text

    return wrap_parser


def require(condition: object) -> None:
    """Raise ValueError without a message; `with_error_message` adds the parser's message."""
    if not condition:
        raise ValueError


def make_choice_parser(choices: Mapping[str, T]) -> Parser[T]:
    return with_error_message("one of " + ", ".join(choices))(lambda text: choices[text.lower()])


def make_word_parser(*words: str) -> Parser[str]:
    return make_choice_parser({word.lower(): word for word in words})


def make_number_parser(kind: Callable[[str], N], low: float, high: float, unit: str) -> Parser[N]:
    @with_error_message(f"a number{unit} from {low:g} to {high:g}")
    def parse_number(text: str) -> N:
        value = kind(text)
        require(low <= value <= high)
        return value

    return parse_number


def split_commas(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


@with_error_message(
    "different names made of a-z, 0-9, - and _, separated by commas ('forwarder' is reserved)"
)
def parse_names(text: str) -> tuple[str, ...]:
    names = tuple(split_commas(text))
    require(names and all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names))
    require(len({ENV_PREFIX, *map(make_prefix, names)}) == len(names) + 1)
    return names


@with_error_message(
    "an http:// or https:// address without user, query or fragment, and without the final"
    " /chat/completions or /responses"
)
def parse_http_url(text: str) -> str:
    url = urlsplit(text)
    require(url.scheme in ("http", "https") and url.hostname and url.port != 0)
    require(not re.search(r"[\s\x00-\x1f\x7f@?#]", text) and len(text) <= 2048)
    address = text.rstrip("/")
    require(not address.endswith(("/chat/completions", "/responses")))
    return address


def parse_required_url(text: str) -> str:
    if not text:
        raise ValueError("set, because FORWARDER_UPSTREAMS names this upstream")
    return parse_http_url(text)


@with_error_message("an http:// or https:// address without user, query or fragment")
def parse_public_url(text: str) -> str:
    return parse_http_url(text).removesuffix("/v1").rstrip("/")


@with_error_message("an http:// or https:// address without user, query or fragment")
def parse_service_url(text: str) -> str:
    return parse_http_url(text)


@with_error_message("a key without spaces, in plain ASCII, and without the word Bearer")
def parse_key(text: str) -> str | None:
    require(re.fullmatch(r"[!-~]*", text))
    return text if text and text != PASSTHROUGH_KEY else None


@with_error_message("keys without spaces, in plain ASCII, separated by commas")
def parse_keys(text: str) -> tuple[str, ...]:
    keys = tuple(split_commas(text))
    require(all(re.fullmatch(r"[!-~]+", key) for key in keys))
    return keys


CLIENT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

ANONYMOUS_CLIENT = "anonymous"
"""The name of every client as long as clients need no keys."""

UNKNOWN_CLIENT = "unknown"
"""The name of a client that paid for background work with a key that is no longer configured."""

# Metric labels are "none" for requests without a client and "other" for clients beyond a maximum.
RESERVED_CLIENT_NAMES = (ANONYMOUS_CLIENT, "none", "other", UNKNOWN_CLIENT)


@with_error_message(
    "keys without spaces, in plain ASCII, separated by commas, each alone or as NAME:KEY; names "
    "are different and have up to 64 letters, digits, '.', '_' and '-' "
    f"({', '.join(RESERVED_CLIENT_NAMES)} are reserved)"
)
def parse_client_names(text: str) -> Mapping[str, str | None]:
    """Return key -> name, or None for a key without a name.

    After all keys, the result has each NAME:KEY as a whole too: before names were introduced, such
    a text was a key, and clients may still send it.
    """
    names: dict[str, str | None] = {}
    for item in split_commas(text):
        name, colon, key = item.partition(":")
        if not (colon and CLIENT_NAME.fullmatch(name)):
            name, key = "", item
        require(re.fullmatch(r"[!-~]+", key) and name not in RESERVED_CLIENT_NAMES)
        require(not name or (name not in names.values() and names.get(key) is None))
        names[key] = name or names.get(key)
    whole = {f"{name}:{key}": name for key, name in names.items() if name}
    return MappingProxyType({**names, **{k: v for k, v in whole.items() if k not in names}})


def parse_client_keys(text: str) -> tuple[str, ...]:
    """Return the keys that clients may send."""
    return tuple(parse_client_names(text))


@with_error_message(
    "patterns (qwen-*) and aliases (fast=qwen-turbo, claude-*=qwen-plus) separated by commas"
)
def parse_aliases(text: str) -> Mapping[str, str]:
    pairs = [item.partition("=") for item in split_commas(text) if "=" in item]
    aliases = {name.strip(): model.strip() for name, _, model in pairs}
    require(len(aliases) == len(pairs) and all(aliases) and all(aliases.values()))
    require(not any(map(is_pattern, aliases.values())))
    return MappingProxyType(aliases)


class Fallback(NamedTuple):
    """A fallback upstream; ``model`` is ``None`` if it gets the same model name."""

    upstream: str
    model: str | None


FALLBACKS_MESSAGE = "names of other upstreams, each alone or as NAME/MODEL, separated by commas"


@with_error_message(FALLBACKS_MESSAGE)
def parse_fallbacks(text: str) -> tuple[Fallback, ...]:
    parts = [item.partition("/") for item in split_commas(text)]
    require(all(name and bool(slash) == bool(model) for name, slash, model in parts))
    return tuple(Fallback(name, model or None) for name, _, model in parts)


def parse_globs(text: str) -> tuple[str, ...]:
    return tuple(item for item in split_commas(text) if "=" not in item)


def parse_provider(text: str) -> str:
    from forwarder.providers import PROFILES

    return make_word_parser(*sorted(PROFILES))(text) if text else ""


def parse_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    require(isinstance(value, dict))
    return dict(value)


@with_error_message("'Name: value; Other: value' or a JSON object of strings, in plain ASCII")
def parse_headers(text: str) -> Mapping[str, str]:
    if text.startswith("{"):
        headers = parse_object(text)
    else:
        pieces = [piece.partition(":") for piece in text.split(";") if piece.strip()]
        require(all(colon for _, colon, _ in pieces))
        headers = {name.strip(): value.strip() for name, _, value in pieces}
    for name, value in headers.items():
        require(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) and isinstance(value, str))
        require(re.fullmatch(r"[!-~]([ -~]*[!-~])?", value))
    return MappingProxyType(headers)


@with_error_message("name=value pairs joined by &")
def parse_query(text: str) -> Mapping[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    return MappingProxyType(dict(pairs))


def parse_quirks(text: str) -> Mapping[str, Any]:
    from forwarder.providers import validate_quirks

    return MappingProxyType(
        dict(validate_quirks(with_error_message("a JSON object")(parse_object)(text)))
    )


@with_error_message("all, none, or some of " + ", ".join(HOSTED_TOOLS) + ", separated by commas")
def parse_tool_names(text: str) -> frozenset[str]:
    names = frozenset(split_commas(text.lower()))
    require(names <= {EVERY_TOOL, "none", *HOSTED_TOOLS})
    require(len(names) == 1 or not names & {EVERY_TOOL, "none"})
    return names - {"none"}


class McpTarget(NamedTuple):
    """A tool of one of the operator's MCP servers."""

    label: str
    tool: str


@with_error_message("mcp:LABEL/TOOL")
def parse_mcp_target(text: str) -> McpTarget:
    kind, _, target = text.partition(":")
    label, _, tool = target.partition("/")
    require(kind == "mcp" and label and tool)
    return McpTarget(label, tool)


@with_error_message("web_search, mcp:LABEL and mapped tools, separated by commas")
def parse_extra_tools(text: str) -> tuple[str, ...]:
    names = tuple(split_commas(text))
    for name in names:
        kind, _, label = name.partition(":")
        require(bool(label) if kind == "mcp" else name in EXTRA_TOOLS)
    return names


EXTRA_TOOLS = tuple(name for name in HOSTED_TOOLS if name not in ("mcp", "file_search"))
"""Hosted tools without parameters of their own, which every request may have."""


@with_error_message("a JSON object of objects by model pattern")
def parse_model_info(text: str) -> Mapping[str, Mapping[str, Any]]:
    info = parse_object(text)
    require(all(isinstance(fields, dict) for fields in info.values()))
    return MappingProxyType(info)


@with_error_message("host names, addresses and networks (10.1.0.0/16) separated by commas")
def parse_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(split_commas(text))
    for host in hosts:
        if re.search(r"[/:]", host):
            ip_network(host, strict=False)
        require(re.fullmatch(r"[A-Za-z0-9._:/-]+", host))
    return hosts


@with_error_message(
    "a number of bytes above 0, optionally with the unit k, m or g (powers of 1024)"
)
def parse_size(text: str) -> int:
    digits, unit = re.findall(r"\A([1-9][0-9]*)([kmg]?)\Z", text.lower())[0]
    return int(digits) * {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[unit]


@with_error_message(
    "none, sqlite:///PATH or the address of a PostgreSQL database (postgresql://...)"
)
def parse_database(text: str) -> str:
    if text.lower() == "none":
        return "none"
    url = urlsplit(text)
    if url.scheme == "sqlite":
        require(not url.netloc and url.path.strip("/") and not url.query)
    else:
        require(url.scheme in ("postgresql", "postgres", "postgresql+psycopg"))
        require(url.hostname or url.query or url.path.strip("/"))
    return text


@with_error_message("a whole number above 0 followed by /second, /minute, /hour or /day")
def parse_rate(text: str) -> str:
    rate = text.lower().replace(" ", "")
    require(re.fullmatch(r"[1-9][0-9]{0,14}/(second|minute|hour|day)", rate))
    return rate


@with_error_message("memory:// or a Redis address (redis://, rediss:// or redis+unix://)")
def parse_storage(text: str) -> str:
    url = urlsplit(text)
    require(url.scheme in ("memory", "redis", "rediss", "redis+unix"))
    require(url.scheme == "memory" or url.hostname or url.path)
    return text


@with_error_message("off, memory or the path of a directory that contains a /")
def parse_capture(text: str) -> str:
    if text.lower() in ("off", "memory"):
        return text.lower()
    require("/" in text)
    return text


def parse_docs_folder(text: str) -> str | None:
    return None if text.lower() == "off" else text


@with_error_message(
    "header names or patterns (x-codex-*) separated by commas, except headers that hold keys or"
    " cookies or belong to one connection"
)
def parse_client_headers(text: str) -> tuple[str, ...]:
    from forwarder.core.client_headers import is_forbidden

    names = tuple(split_commas(text.lower()))
    require(all(re.fullmatch(r"[a-z0-9_*?-]+", name) for name in names))
    require(not any(is_forbidden(name) for name in names))
    return names


@with_error_message("*, host names and patterns (*.example.com) separated by commas, without ports")
def parse_host_patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(name.removesuffix(".").lower() for name in split_commas(text))
    for pattern in set(patterns) - {"*"}:
        require(re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", pattern))
    return patterns


@with_error_message("* or origins (https://chat.example.com) separated by commas")
def parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.rstrip("/").lower() for origin in split_commas(text))
    for origin in set(origins) - {"*", "null"}:
        require(
            re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", origin)
        )
    return origins


@with_error_message("field names (user) and paths to fields (messages.content) separated by commas")
def parse_fields(text: str) -> tuple[str, ...]:
    fields = tuple(split_commas(text))
    require(all(all(field.split(".")) for field in fields))
    return fields


SEARCH_ENGINES = ("searxng", "brave", "tavily", "exa")
"""Engines that search the web; `forwarder.hosted_tools.web_search_backends` asks them."""

parse_flag = make_choice_parser(
    {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
)
parse_on_off = make_choice_parser({"on": True, "off": False})
parse_seconds = make_number_parser(float, 0.001, 86400, " of seconds")
parse_seconds_from_zero = make_number_parser(float, 0, 86400, " of seconds")


def parse_seconds_or_none(text: str) -> float | None:
    """Parse seconds; return ``None`` (no limit) for 0."""
    return parse_seconds_from_zero(text) or None


def parse_limit(text: str) -> int | None:
    """Parse a count; return ``None`` (no limit) for 0."""
    return make_number_parser(int, 0, 1_000_000, "")(text) or None


def parse_tokens(text: str) -> int | None:
    """Parse a number of tokens; return ``None`` (unknown) for 0."""
    return make_number_parser(int, 0, 1_000_000_000, "")(text) or None


class ToolSource(NamedTuple):
    """The source of a hosted tool; ``kind`` is ``off``, an engine, or a prefix like ``upstream``.

    ``name`` and ``item`` are an upstream and its model, or the label of an MCP server and its tool.
    """

    kind: str
    name: str = ""
    item: str = ""


@with_error_message("off, searxng, brave, tavily, exa, upstream:NAME/MODEL, or mcp:LABEL/TOOL")
def parse_search_source(text: str) -> ToolSource:
    kind, sign, target = text.partition(":")
    if not sign:
        require(kind.lower() in ("off", *SEARCH_ENGINES))
        return ToolSource(kind.lower())
    name, _, item = target.partition("/")
    require(kind.lower() in ("upstream", "mcp") and name and item)
    return ToolSource(kind.lower(), name, item)


@with_error_message("off, images:NAME/MODEL, or model:NAME/MODEL")
def parse_image_source(text: str) -> ToolSource:
    kind, sign, target = text.partition(":")
    if not sign:
        require(kind.lower() == "off")
        return ToolSource("off")
    name, _, item = target.partition("/")
    require(kind.lower() in ("images", "model") and name and item)
    return ToolSource(kind.lower(), name, item)


parse_api = make_choice_parser(
    {"chat": CHAT_API, "responses": RESPONSES_API, "both": CHAT_API | RESPONSES_API}
)
parse_chat_style = make_word_parser(*CHAT.reasoning_styles)
parse_responses_style = make_word_parser(*RESPONSES.reasoning_styles)


@with_error_message("KEY=STYLE pairs separated by commas; STYLE is one of " + ", ".join(ALL_STYLES))
def parse_key_styles(text: str) -> Mapping[str, tuple[str, ...]]:
    styles: dict[str, tuple[str, ...]] = {}
    for key, sign, style in (item.rpartition("=") for item in split_commas(text)):
        require(sign and re.fullmatch(r"[!-~]+", key) and style.lower() in ALL_STYLES)
        styles[key] = (*styles.get(key, ()), style.lower())
    return MappingProxyType(styles)


class Price(NamedTuple):
    """The price of a model in USD per million tokens; ``cached`` is for input from a cache."""

    input: float
    cached: float
    output: float


MAX_PRICE = 1_000_000.0


@with_error_message(
    "PATTERN=INPUT/CACHED/OUTPUT separated by commas, or the path of a TOML or JSON file with "
    '"PATTERN" = [INPUT, CACHED, OUTPUT], in USD per million tokens'
)
def parse_prices(text: str) -> Mapping[str, Price]:
    if "=" in text or not text:
        items = [item.rpartition("=") for item in split_commas(text)]
        prices = {pattern.strip(): list(map(float, p.split("/"))) for pattern, _, p in items}
        require(len(prices) == len(items))
        return make_prices(prices)
    try:
        content = Path(text).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError from error
    return make_prices(parse_object(content) if text.endswith(".json") else tomllib.loads(content))


def make_prices(values: Mapping[str, Any]) -> Mapping[str, Price]:
    """Return pattern -> price for lists of three numbers. Raises ValueError."""
    for pattern, prices in values.items():
        require(pattern and isinstance(prices, list) and len(prices) == 3)
        require(all(type(price) in (int, float) and 0 <= price <= MAX_PRICE for price in prices))
    return MappingProxyType({pattern: Price(*map(float, each)) for pattern, each in values.items()})

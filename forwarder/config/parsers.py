"""Text from the environment -> a value.  A ValueError says what the variable must be.

No message repeats the text: a key may have been pasted into the wrong variable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from forwarder.protocols.client_reasoning_style import ALL_STYLES, STYLES

OURS = "FORWARDER_"
PASSTHROUGH = "passthrough"
CHAT = frozenset({"chat"})
RESPONSES = frozenset({"responses"})

T = TypeVar("T")
N = TypeVar("N", int, float)
Parser = Callable[[str], T]


def prefix_of(name: str) -> str:
    """The head of an upstream's variables: ``my-vllm`` -> ``MY_VLLM_``."""
    return name.upper().replace("-", "_") + "_"


def is_pattern(model: str) -> bool:
    """Whether ``fnmatchcase`` would take ``model`` for more than one name."""
    return any(sign in model for sign in "*?[")


def _allowing(allowed: str) -> Callable[[Parser[T]], Parser[T]]:
    """Whatever goes wrong in the parser, the operator reads what is ``allowed``."""

    def around(parse: Parser[T]) -> Parser[T]:
        @wraps(parse)
        def parser(text: str) -> T:
            try:
                return parse(text)
            except (ValueError, LookupError):
                raise ValueError(allowed) from None

        return parser

    return around


def _require(fact: object) -> None:
    if not fact:
        raise ValueError


def choice(choices: Mapping[str, T]) -> Parser[T]:
    return _allowing("one of " + ", ".join(choices))(lambda text: choices[text.lower()])


def one_of(*words: str) -> Parser[str]:
    return choice({word.lower(): word for word in words})


def number(kind: Callable[[str], N], low: float, high: float, unit: str) -> Parser[N]:
    @_allowing(f"a number{unit} from {low:g} to {high:g}")
    def parse(text: str) -> N:
        value = kind(text)
        _require(low <= value <= high)
        return value

    return parse


def commas(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


@_allowing(
    "different names made of a-z, 0-9, - and _, separated by commas ('forwarder' is not free)"
)
def names(text: str) -> tuple[str, ...]:
    names = tuple(commas(text))
    _require(names and all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names))
    _require(len({OURS, *map(prefix_of, names)}) == len(names) + 1)
    return names


@_allowing(
    "an http:// or https:// address that ends before /chat/completions or /responses,"
    " without user, query or fragment"
)
def http(text: str) -> str:
    url = urlsplit(text)
    _require(url.scheme in ("http", "https") and url.hostname and url.port != 0)
    _require(not re.search(r"[\s\x00-\x1f\x7f@?#]", text) and len(text) <= 2048)
    address = text.rstrip("/")
    _require(not address.endswith(("/chat/completions", "/responses")))
    return address


def address(text: str) -> str:
    if not text:
        raise ValueError("set, since FORWARDER_UPSTREAMS names this upstream")
    return http(text)


@_allowing("an http:// or https:// address without user, query or fragment")
def public(text: str) -> str:
    return http(text).removesuffix("/v1").rstrip("/")


@_allowing("a key without spaces, in plain ASCII, and without the word Bearer")
def key(text: str) -> str | None:
    _require(re.fullmatch(r"[!-~]*", text))
    return text if text and text != PASSTHROUGH else None


@_allowing("keys without spaces, in plain ASCII, separated by commas")
def keys(text: str) -> tuple[str, ...]:
    keys = tuple(commas(text))
    _require(all(re.fullmatch(r"[!-~]+", key) for key in keys))
    return keys


@_allowing("patterns (qwen-*) and aliases (fast=qwen-turbo, no wildcards) separated by commas")
def aliases(text: str) -> Mapping[str, str]:
    pairs = [item.partition("=") for item in commas(text) if "=" in item]
    aliases = {name.strip(): model.strip() for name, _, model in pairs}
    _require(len(aliases) == len(pairs) and all(aliases) and all(aliases.values()))
    _require(not any(is_pattern(word) for pair in aliases.items() for word in pair))
    return MappingProxyType(aliases)


class Fallback(NamedTuple):
    """Another upstream; ``model`` is ``None`` where it is asked for the same model."""

    upstream: str
    model: str | None


FALLBACKS = "names of other upstreams, each alone or as NAME/MODEL, separated by commas"


@_allowing(FALLBACKS)
def fallbacks(text: str) -> tuple[Fallback, ...]:
    parts = [item.partition("/") for item in commas(text)]
    _require(all(name and bool(slash) == bool(model) for name, slash, model in parts))
    return tuple(Fallback(name, model or None) for name, _, model in parts)


def globs(text: str) -> tuple[str, ...]:
    return tuple(item for item in commas(text) if "=" not in item)


def provider(text: str) -> str:
    from forwarder.providers import PROFILES

    return one_of(*sorted(PROFILES))(text) if text else ""


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    _require(isinstance(value, dict))
    return dict(value)


@_allowing("'Name: value; Other: value' or a JSON object of strings, in plain ASCII")
def headers(text: str) -> Mapping[str, str]:
    if text.startswith("{"):
        headers = _object(text)
    else:
        pieces = [piece.partition(":") for piece in text.split(";") if piece.strip()]
        _require(all(colon for _, colon, _ in pieces))
        headers = {name.strip(): value.strip() for name, _, value in pieces}
    for name, value in headers.items():
        _require(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) and isinstance(value, str))
        _require(re.fullmatch(r"[!-~]([ -~]*[!-~])?", value))
    return MappingProxyType(headers)


@_allowing("name=value pairs joined by &")
def query(text: str) -> Mapping[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    return MappingProxyType(dict(pairs))


def quirks(text: str) -> Mapping[str, Any]:
    from forwarder.providers import checked

    return MappingProxyType(dict(checked(_allowing("a JSON object")(_object)(text))))


@_allowing("a JSON object of objects by model pattern")
def model_info(text: str) -> Mapping[str, Mapping[str, Any]]:
    info = _object(text)
    _require(all(isinstance(fields, dict) for fields in info.values()))
    return MappingProxyType(info)


@_allowing("names of hosts, addresses and networks (10.1.0.0/16) separated by commas")
def hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(commas(text))
    for host in hosts:
        if re.search(r"[/:]", host):
            ip_network(host, strict=False)
        _require(re.fullmatch(r"[A-Za-z0-9._:/-]+", host))
    return hosts


@_allowing("a number of bytes above 0, with k, m or g for 1024, 1024^2 or 1024^3 of them")
def size(text: str) -> int:
    digits, unit = re.findall(r"\A([1-9][0-9]*)([kmg]?)\Z", text.lower())[0]
    return int(digits) * {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[unit]


@_allowing("none, sqlite:///PATH or the address of a PostgreSQL database (postgresql://...)")
def database(text: str) -> str:
    if text.lower() == "none":
        return "none"
    url = urlsplit(text)
    if url.scheme == "sqlite":
        _require(not url.netloc and url.path.strip("/") and not url.query)
    else:
        _require(url.scheme in ("postgresql", "postgres", "postgresql+psycopg"))
        _require(url.hostname or url.query or url.path.strip("/"))
    return text


@_allowing("a whole number above 0 and /second, /minute, /hour or /day")
def rate(text: str) -> str:
    rate = text.lower().replace(" ", "")
    _require(re.fullmatch(r"[1-9][0-9]{0,14}/(second|minute|hour|day)", rate))
    return rate


@_allowing("memory:// or the address of a Redis (redis://, rediss:// or redis+unix://)")
def storage(text: str) -> str:
    url = urlsplit(text)
    _require(url.scheme in ("memory", "redis", "rediss", "redis+unix"))
    _require(url.scheme == "memory" or url.hostname or url.path)
    return text


@_allowing("off, memory or the path of a directory, with a / in it")
def capture(text: str) -> str:
    if text.lower() in ("off", "memory"):
        return text.lower()
    _require("/" in text)
    return text


@_allowing(
    "names of headers or patterns (x-codex-*) separated by commas, without those that hold keys or"
    " cookies or describe one connection"
)
def client_headers(text: str) -> tuple[str, ...]:
    from forwarder.core.client_headers import is_forbidden

    names = tuple(commas(text.lower()))
    _require(all(re.fullmatch(r"[a-z0-9_*?-]+", name) for name in names))
    _require(not any(is_forbidden(name) for name in names))
    return names


@_allowing("*, names of hosts and patterns (*.example.com) separated by commas, without ports")
def host_patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(name.removesuffix(".").lower() for name in commas(text))
    for pattern in set(patterns) - {"*"}:
        _require(re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", pattern))
    return patterns


@_allowing("* or origins (https://chat.example.com) separated by commas")
def origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.rstrip("/").lower() for origin in commas(text))
    for origin in set(origins) - {"*", "null"}:
        _require(
            re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", origin)
        )
    return origins


@_allowing("names of fields (user) and paths to them (messages.content) separated by commas")
def fields(text: str) -> tuple[str, ...]:
    fields = tuple(commas(text))
    _require(all(all(field.split(".")) for field in fields))
    return fields


flag = choice({"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False})
on_off = choice({"on": True, "off": False})
seconds = number(float, 0.001, 86400, " of seconds")
seconds_from_zero = number(float, 0, 86400, " of seconds")


def seconds_or_none(text: str) -> float | None:
    """Seconds, of which none at all are no limit."""
    return seconds_from_zero(text) or None


def limit(text: str) -> int | None:
    """So many, of which none at all are no limit."""
    return number(int, 0, 1_000_000, "")(text) or None


def tokens(text: str) -> int | None:
    """So many tokens, of which none at all are not known."""
    return number(int, 0, 1_000_000_000, "")(text) or None


api = choice({"chat": CHAT, "responses": RESPONSES, "both": CHAT | RESPONSES})
chat_style = one_of(*STYLES["chat"])
responses_style = one_of(*STYLES["responses"])


@_allowing("KEY=STYLE pairs separated by commas, of the styles " + ", ".join(ALL_STYLES))
def key_styles(text: str) -> Mapping[str, tuple[str, ...]]:
    styles: dict[str, tuple[str, ...]] = {}
    for key, sign, style in (item.rpartition("=") for item in commas(text)):
        _require(sign and re.fullmatch(r"[!-~]+", key) and style.lower() in ALL_STYLES)
        styles[key] = (*styles.get(key, ()), style.lower())
    return MappingProxyType(styles)

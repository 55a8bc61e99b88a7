"""The environment, read once, as frozen settings.

Two tables say everything: ``SETTINGS`` holds the ``FORWARDER_…`` variables, ``UPSTREAM_SETTINGS``
those that each upstream has under its own prefix (``CHAT_BASE_URL`` for the upstream ``chat``).
A row names the variable, the field it fills, its parser and its default as an operator would
write it; ``.env.example`` documents the same rows for people.

Rule 1: ``load()`` is the only reader of ``os.environ``; everything else takes a mapping.
Rule 2: all mistakes are found before any is reported, one line each.
Rule 3: no line repeats a value: a key may have been pasted into the wrong variable.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from dotenv import load_dotenv

OURS = "FORWARDER_"
DOTENV = "FORWARDER_DOTENV"
PASSTHROUGH = "passthrough"
CHAT = frozenset({"chat"})
RESPONSES = frozenset({"responses"})

T = TypeVar("T")
N = TypeVar("N", int, float)
Parser = Callable[[str], T]


class ConfigError(Exception):
    """The environment cannot be used; ``mistakes`` holds one line for each reason."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class UpstreamSettings:
    """One upstream. Time-outs are in seconds; ``apis`` holds ``"chat"``, ``"responses"`` or both.

    ``aliases`` maps a client's name for a model to the upstream's; ``globs`` are patterns for
    ``fnmatchcase``. With ``passthrough_key`` the client's own key goes upstream, and ``api_key``
    is ``None``. ``provider`` is ``""`` when the address is to give it away.
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
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    total_timeout: float | None
    max_retries: int


@dataclass(frozen=True)
class Settings:
    """The whole configuration. Intervals are in seconds, ``max_body`` in bytes.

    ``chat_reasoning`` is ``None`` when the operator left it to the forwarder: translated answers
    then show reasoning as ``thinking``, answers that pass through stay untouched.
    ``demo`` says that nothing was configured and ``upstreams`` are the built-in demo.
    """

    upstreams: tuple[UpstreamSettings, ...]
    demo: bool
    default_model: str | None
    api_keys: tuple[str, ...] = field(repr=False)
    chat_reasoning: str | None
    responses_reasoning: str
    chat_default_stream: bool
    hosted_tools: str
    strict: bool
    keepalive: float
    max_body: int
    secret_keys: tuple[str, ...] = field(repr=False)
    log_level: str
    log_sample: float
    log_bodies: bool
    ready_ttl: float

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from the variables in ``environ``; raises ``ConfigError`` with all mistakes."""
        sheet = _Sheet(environ)
        values = sheet.read(OURS, SETTINGS)
        names = values.pop("upstreams") or ()
        sheet.find_misspelled(names)
        upstreams, demo = _upstreams(sheet, names)
        if sheet.mistakes:
            raise ConfigError(list(dict.fromkeys(sheet.mistakes)))
        return cls(upstreams=upstreams, demo=demo, **values)


def load() -> Settings:
    """Settings from the real environment, over those in the file ``FORWARDER_DOTENV`` (``.env``).

    ``FORWARDER_DOTENV=""`` reads no file. Raises ``ConfigError`` with all mistakes.
    """
    path = os.environ.get(DOTENV, ".env")
    if DOTENV in os.environ and path and not Path(path).is_file():
        raise ConfigError([f"{DOTENV} must be the path of a file, or empty to read none"])
    if path:
        load_dotenv(path, override=False)
    return Settings.from_env(os.environ)


# --- parsers: text -> value; a ValueError says what the variable must be ------------------------


def _allowing(allowed: str) -> Callable[[Parser[T]], Parser[T]]:
    """Whatever goes wrong in the parser, the operator reads what is ``allowed``."""

    def around(parse: Parser[T]) -> Parser[T]:
        @wraps(parse)
        def parser(text: str) -> T:
            try:
                return parse(text)
            except (ValueError, LookupError):
                # from None: the cause quotes the value, and the value may be a key.
                raise ValueError(allowed) from None

        return parser

    return around


def _require(fact: object) -> None:
    if not fact:
        raise ValueError


def _choice(choices: Mapping[str, T]) -> Parser[T]:
    return _allowing("one of " + ", ".join(choices))(lambda text: choices[text.lower()])


def _one_of(*words: str) -> Parser[str]:
    return _choice({word.lower(): word for word in words})


def _number(kind: Callable[[str], N], low: float, high: float, unit: str) -> Parser[N]:
    @_allowing(f"a number{unit} from {low:g} to {high:g}")
    def parse(text: str) -> N:
        value = kind(text)
        _require(low <= value <= high)
        return value

    return parse


def _commas(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


@_allowing(
    "different names made of a-z, 0-9, - and _, separated by commas ('forwarder' is not free)"
)
def _names(text: str) -> tuple[str, ...]:
    names = tuple(_commas(text))
    _require(names and all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names))
    _require(len({OURS, *map(_prefix, names)}) == len(names) + 1)
    return names


@_allowing(
    "an http:// or https:// address that ends before /chat/completions or /responses,"
    " without user, query or fragment"
)
def _address(text: str) -> str:
    url = urlsplit(text)
    _require(url.scheme in ("http", "https") and url.hostname and url.port != 0)
    _require(not re.search(r"[\s@?#]", text))
    address = text.rstrip("/")
    _require(not address.endswith(("/chat/completions", "/responses")))
    return address


@_allowing("a key without spaces, in plain ASCII, and without the word Bearer")
def _key(text: str) -> str | None:
    _require(re.fullmatch(r"[!-~]*", text))
    return text if text and text != PASSTHROUGH else None


@_allowing("keys without spaces, in plain ASCII, separated by commas")
def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(_commas(text))
    _require(all(re.fullmatch(r"[!-~]+", key) for key in keys))
    return keys


@_allowing("patterns (qwen-*) and aliases (fast=qwen-turbo, no wildcards) separated by commas")
def _aliases(text: str) -> Mapping[str, str]:
    pairs = [item.partition("=") for item in _commas(text) if "=" in item]
    aliases = {name.strip(): model.strip() for name, _, model in pairs}
    _require(len(aliases) == len(pairs) and all(aliases) and all(aliases.values()))
    _require(not any(is_pattern(word) for pair in aliases.items() for word in pair))
    return MappingProxyType(aliases)


def _globs(text: str) -> tuple[str, ...]:
    return tuple(item for item in _commas(text) if "=" not in item)


def _provider(text: str) -> str:
    from forwarder.profiles import PROFILES

    return _one_of(*sorted(PROFILES))(text) if text else ""


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    _require(isinstance(value, dict))
    return dict(value)


@_allowing("'Name: value; Other: value' or a JSON object of strings, in plain ASCII")
def _headers(text: str) -> Mapping[str, str]:
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
def _query(text: str) -> Mapping[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    return MappingProxyType(dict(pairs))


def _quirks(text: str) -> Mapping[str, Any]:
    from forwarder.profiles import KNOBS

    @_allowing("a JSON object with names out of " + ", ".join(sorted(KNOBS)))
    def parse(text: str) -> Mapping[str, Any]:
        quirks = _object(text)
        _require(quirks.keys() <= KNOBS)
        return MappingProxyType(quirks)

    return parse(text)


@_allowing("a number of bytes above 0, with k or m for 1024 or 1024*1024 of them")
def _bytes(text: str) -> int:
    digits, unit = re.findall(r"\A([1-9][0-9]*)([km]?)\Z", text.lower())[0]
    return int(digits) * {"": 1, "k": 1024, "m": 1024**2}[unit]


_flag = _choice({"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False})
_seconds = _number(float, 0.001, 86400, " of seconds")
_seconds_from_zero = _number(float, 0, 86400, " of seconds")
_api = _choice({"chat": CHAT, "responses": RESPONSES, "both": CHAT | RESPONSES})
_style = _one_of("thinking", "think", "reasoning_content", "reasoning", "parts", "none")
_shown = _one_of("summary", "text", "both")


# --- the tables ---------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A variable without its prefix, the field it fills, and its default as text.

    A default of ``None`` leaves the field ``None``; an empty variable counts as one not set.
    """

    suffix: str
    field: str
    parse: Parser[Any]
    default: str | None


SETTINGS = (
    Setting("UPSTREAMS", "upstreams", _names, "chat,responses"),
    Setting("DEFAULT_MODEL", "default_model", str, None),
    Setting("API_KEYS", "api_keys", _keys, ""),
    Setting("CHAT_REASONING", "chat_reasoning", _style, None),
    Setting("RESPONSES_REASONING", "responses_reasoning", _shown, "summary"),
    Setting("CHAT_DEFAULT_STREAM", "chat_default_stream", _flag, "false"),
    Setting("HOSTED_TOOLS", "hosted_tools", _one_of("drop", "refuse"), "drop"),
    Setting("STRICT", "strict", _flag, "false"),
    Setting("KEEPALIVE", "keepalive", _seconds, "15"),
    Setting("MAX_BODY", "max_body", _bytes, "64m"),
    Setting("SECRET_KEY", "secret_keys", lambda text: tuple(_commas(text)), ""),
    Setting("LOG_LEVEL", "log_level", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO"),
    Setting("LOG_SAMPLE", "log_sample", _number(float, 0, 1, ""), "0"),
    Setting("LOG_BODIES", "log_bodies", _flag, "false"),
    Setting("READY_TTL", "ready_ttl", _seconds_from_zero, "5"),
)

UPSTREAM_SETTINGS = (
    Setting("BASE_URL", "base_url", _address, ""),
    Setting("API_KEY", "api_key", _key, ""),
    Setting("API_KEY", "passthrough_key", lambda text: text == PASSTHROUGH, ""),
    Setting("API", "apis", _api, "chat"),
    Setting("MODELS", "aliases", _aliases, ""),
    Setting("MODELS", "globs", _globs, ""),
    Setting("PROVIDER", "provider", _provider, ""),
    Setting("HEADERS", "headers", _headers, ""),
    Setting("QUERY", "query", _query, ""),
    Setting("QUIRKS", "quirks", _quirks, "{}"),
    Setting("CONNECT_TIMEOUT", "connect_timeout", _seconds, "10"),
    Setting("FIRST_BYTE_TIMEOUT", "first_byte_timeout", _seconds, "300"),
    Setting("IDLE_TIMEOUT", "idle_timeout", _seconds, "300"),
    Setting("TOTAL_TIMEOUT", "total_timeout", lambda text: _seconds_from_zero(text) or None, "0"),
    Setting("MAX_RETRIES", "max_retries", _number(int, 0, 5, ""), "0"),
)

# What a provider's or an upstream's name already says, as the variable that it saves.
IMPLIED_BY_PROVIDER = {
    "demo": {"BASE_URL": "http://demo.invalid/v1"},
    "openai": {"BASE_URL": "https://api.openai.com/v1"},
}
IMPLIED_BY_NAME = {"responses": {"API": "responses"}}
DEMO = {"CHAT_PROVIDER": "demo", "RESPONSES_PROVIDER": "demo"}

# A Kubernetes service called "forwarder" puts these into every pod beside it.
_INJECTED = re.compile(r"FORWARDER_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_\w+)?)")


# --- reading ------------------------------------------------------------------------------------


class _Sheet:
    """The environment being read, and the mistakes found in it so far."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {name: value.strip() for name, value in environ.items()}
        self.mistakes: list[str] = []

    def read(self, prefix: str, table: tuple[Setting, ...], **implied: str) -> dict[str, Any]:
        """Field -> value for each row; ``implied`` (suffix -> text) goes before the defaults."""
        return {
            row.field: self._value(prefix + row.suffix, row, implied.get(row.suffix, row.default))
            for row in table
        }

    def _value(self, variable: str, row: Setting, default: str | None) -> Any:
        text = self.environ.get(variable) or default
        try:
            return None if text is None else row.parse(text)
        except ValueError as error:
            self.mistakes.append(f"{variable} must be {error}")
            return None

    def upstream(self, name: str) -> UpstreamSettings:
        prefix = _prefix(name)
        implied = IMPLIED_BY_NAME.get(name, {}) | self._implied_by_provider(prefix)
        return UpstreamSettings(name=name, **self.read(prefix, UPSTREAM_SETTINGS, **implied))

    def is_present(self, name: str) -> bool:
        prefix = _prefix(name)
        return bool(self.environ.get(prefix + "BASE_URL") or self._implied_by_provider(prefix))

    def _implied_by_provider(self, prefix: str) -> dict[str, str]:
        return IMPLIED_BY_PROVIDER.get(self.environ.get(prefix + "PROVIDER", "").lower(), {})

    def find_misspelled(self, names: tuple[str, ...]) -> None:
        """Variables that are meant for us but are no settings of ours.

        Under our own prefix that is every unknown one; under an upstream's, which other programs
        may use as well, only one that is almost a setting.
        """
        tables = {OURS: SETTINGS} | {_prefix(name): UPSTREAM_SETTINGS for name in names}
        known = {prefix + row.suffix for prefix, table in tables.items() for row in table}
        for variable in sorted(self.environ.keys() - known - {DOTENV}):
            prefix = max((p for p in tables if variable.startswith(p)), key=len, default="")
            suffixes = [row.suffix for row in tables.get(prefix, ())]
            near = get_close_matches(variable.removeprefix(prefix), suffixes, n=1, cutoff=0.8)
            if near:
                hint = f"did you mean {prefix}{near[0]}?"
                self.mistakes.append(f"{variable} is not a setting; {hint}")
            elif prefix == OURS and not _INJECTED.fullmatch(variable):
                self.mistakes.append(f"{variable} is not a setting; .env.example has them all")


def _upstreams(sheet: _Sheet, names: tuple[str, ...]) -> tuple[tuple[UpstreamSettings, ...], bool]:
    """The upstreams, and whether they are only the demo.

    Named by the operator, each must be complete; named by default, one without address is absent.
    """
    if not sheet.environ.get(OURS + "UPSTREAMS"):
        names = tuple(name for name in names if sheet.is_present(name))
    if names:
        return tuple(sheet.upstream(name) for name in names), False
    return tuple(_Sheet(DEMO).upstream(name) for name in ("chat", "responses")), True


def _prefix(name: str) -> str:
    """The head of an upstream's variables: ``my-vllm`` -> ``MY_VLLM_``."""
    return name.upper().replace("-", "_") + "_"


def is_pattern(model: str) -> bool:
    """Whether ``fnmatchcase`` would take ``model`` for more than one name."""
    return any(sign in model for sign in "*?[")

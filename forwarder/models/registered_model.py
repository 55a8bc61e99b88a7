"""A registered model: what a request for one must say, and the upstream that it is.

One that has no host is another name for a model of the configuration, with defaults of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from forwarder.config.parsers import (
    CHAT,
    PASSTHROUGH_KEY,
    RESPONSES,
    Parser,
    parse_headers,
    parse_http_url,
    parse_provider,
)
from forwarder.config.settings import UpstreamSettings, make_upstream_settings
from forwarder.core.client_headers import is_connection_header
from forwarder.core.errors import InvalidRequest, Unsupported, UpstreamKeyRefused
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, DICT, LIST, STR, check_enum, check_type, read_field
from forwarder.models.names import add_tag, is_valid_name, strip_tag
from forwarder.protocols import model_defaults
from forwarder.protocols.model_defaults import ModelDefaults


class RemoteType(NamedTuple):
    """What a ``remote_type`` means: the protocol, and the profile unless one is named."""

    apis: frozenset[str]
    provider: str = ""


REMOTE_TYPES: Mapping[str, RemoteType] = {
    "openai": RemoteType(CHAT),
    "openai-responses": RemoteType(RESPONSES),
    "ollama": RemoteType(CHAT, "ollama"),
}

CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding", "insert", "audio")

_KEY_PATTERN = re.compile(r"[!-~]+")
_MAX_NAME_CHARACTERS = 200
"""Characters of a remote's own name for a model."""


@dataclass(frozen=True, eq=False)
class RegisteredModel:
    """A registered model; ``name`` has its tag, and ``model`` is what the remote calls it.

    Without a ``host`` it is another name for what the configuration calls ``model``.  Of a
    ``locked`` one the secrets could not be opened.  ``capabilities`` is ``None`` where nobody said.
    """

    name: str
    model: str
    host: str = ""
    kind: str = "openai"
    provider: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    license: str | None = None
    context_length: int | None = None
    capabilities: tuple[str, ...] | None = None
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    version: str = ""
    created: float = 0.0
    modified: float = 0.0
    locked: bool = False

    @cached_property
    def upstream(self) -> UpstreamSettings:
        """Where its requests go; the name cannot be that of a configured upstream."""
        return make_upstream_settings(
            self.name,
            base_url=self.host,
            api_key=self.key,
            apis=REMOTE_TYPES[self.kind].apis,
            provider=self.provider or REMOTE_TYPES[self.kind].provider,
            headers=self.headers,
            query=self.query,
            context_window=self.context_window,
            registered=True,
        )

    @cached_property
    def defaults(self) -> ModelDefaults:
        """What goes into requests for it."""
        return ModelDefaults(self.parameters, self.system)

    @property
    def context_window(self) -> int | None:
        """Its context window in tokens, where somebody said it."""
        return self.parameters.get("num_ctx") or self.context_length

    @property
    def can_answer(self) -> bool:
        """May it be asked for an answer?  Some models can only embed."""
        can = self.capabilities or ()
        return "completion" in can or "embedding" not in can

    @property
    def protocol(self) -> str:
        """In which protocol it is asked."""
        return next(iter(REMOTE_TYPES[self.kind].apis))

    def require_key(self) -> RegisteredModel:
        """Itself; raises UpstreamKeyRefused when its secrets could not be opened."""
        if self.locked:
            raise UpstreamKeyRefused(
                f"The key of the model '{strip_tag(self.name)}' cannot be opened: "
                "it was sealed with a secret that the forwarder does not have any more."
            )
        return self

    def get_public_fields(self) -> Json:
        """What is no secret of it, without its name and times."""
        return {
            name: to_plain_value(getattr(self, name))
            for name in _PUBLIC_FIELDS
            if getattr(self, name)
        }

    def get_secret_fields(self) -> Json | None:
        """What is secret of it, if anything is; any header and query value may be."""
        found = {name: getattr(self, name) for name in _SECRET_FIELDS}
        return {k: to_plain_value(v) for k, v in found.items() if v} or None


_PUBLIC_FIELDS = (
    "model", "host", "kind", "provider", "parameters", "system", "license", "context_length",
    "capabilities",
)  # fmt: skip
_SECRET_FIELDS = ("key", "headers", "query")


def to_plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def restore_model(told: Json, secrets: Json, **rest: Any) -> RegisteredModel:
    """A model as it was, of what was told and what was secret."""
    known = {name: told[name] for name in _PUBLIC_FIELDS if name in told}
    if "capabilities" in known:
        known["capabilities"] = tuple(known["capabilities"])
    return RegisteredModel(
        **known, **{name: secrets[name] for name in _SECRET_FIELDS if name in secrets}, **rest
    )


# -- requests -----------------------------------------------------------------------------------

_UNSUPPORTED_FIELDS = {
    "files": "models are not stored here, only where they are is",
    "adapters": "models are not stored here, only where they are is",
    "quantize": "models are not stored here, only where they are is",
    "quantization": "models are not stored here, only where they are is",
    "draft_files": "models are not stored here, only where they are is",
    "draft_quantize": "models are not stored here, only where they are is",
    "template": "the remote lays its prompts out itself",
    "renderer": "the remote lays its prompts out itself",
    "parser": "the remote reads its answers itself",
    "messages": "only a system prompt is laid into requests",
    "modelfile": "send its instructions as fields: from, parameters, system",
    "path": "models are not stored here, only where they are is",
}
_ACCEPTED_FIELDS = frozenset(
    {
        "model", "name", "from", "stream", "verify", "remote_host", "remote_type",
        "remote_api_key", "remote_headers", "remote_query", "provider", "parameters", "system",
        "license", "info", "requires",
    }
)  # fmt: skip
_REMOTE_FIELDS = ("remote_type", "remote_api_key", "remote_headers", "remote_query", "provider")


def read_name(body: Json) -> str:
    """The name of the model that a request is about, as it is given."""
    given = read_field(body, "model", STR, "model") or read_field(body, "name", STR, "name")
    if not given:
        raise InvalidRequest("model is required", param="model", code="missing_required_parameter")
    return str(given)


def validate_name(name: str, param: str) -> str:
    """A name that a model can be registered under, with its tag."""
    if not is_valid_name(name):
        raise InvalidRequest(
            f"Invalid value for '{param}': a model's name has letters, digits, '_', '-' and '.', "
            "perhaps a namespace before a '/', and perhaps a tag behind a ':'.",
            param=param,
            code="invalid_value",
        )
    return add_tag(name)


def read_create_request(body: Json) -> RegisteredModel:
    """The model that a request to create one describes; one without a host is a copy.

    Raises InvalidRequest for what is wrong, Unsupported for what remote models do not have.
    """
    for name, why in _UNSUPPORTED_FIELDS.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {why}.", param=name)
    unknown = sorted(body.keys() - _ACCEPTED_FIELDS - _UNSUPPORTED_FIELDS.keys())
    if unknown:  # left out in silence, a misspelled key would only be missed upstream
        raise InvalidRequest(
            f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter"
        )
    name = validate_name(read_name(body), "model")
    source = read_field(body, "from", STR, "from")
    if not source or len(source) > _MAX_NAME_CHARACTERS:
        raise InvalidRequest(
            "'from' must say what the remote calls the model.",
            param="from",
            code="missing_required_parameter",
        )
    common = {"name": name, "model": str(source), **read_own_fields(body)}
    host = read_field(body, "remote_host", STR, "remote_host")
    if not host:
        for field_ in _REMOTE_FIELDS:
            if body.get(field_):
                raise InvalidRequest(
                    f"'{field_}' takes a 'remote_host'.", param=field_, code="invalid_value"
                )
        return RegisteredModel(**common)
    return build_remote_model(str(host), body, common)


def copy_model(source: RegisteredModel, wanted: RegisteredModel) -> RegisteredModel:
    """A registered model under another name; what is ``wanted`` goes before what it has."""
    return replace(
        source,
        name=wanted.name,
        parameters={**source.parameters, **wanted.parameters},
        system=wanted.system or source.system,
        license=wanted.license or source.license,
        context_length=wanted.context_length or source.context_length,
        capabilities=wanted.capabilities or source.capabilities,
    )


def read_own_fields(body: Json) -> Json:
    """What is said of the model itself."""
    parameters = read_field(body, "parameters", DICT, "parameters") or {}
    license_ = read_field(body, "license", (*STR, *LIST), "license")
    info = read_field(body, "info", DICT, "info") or {}
    capabilities = read_field(info, "capabilities", LIST, "info.capabilities")
    for given in capabilities or ():
        check_enum(given, CAPABILITIES, "info.capabilities")
    length = info.get("context_length")
    if length is not None and not model_defaults.MODEL_PARAMETERS["num_ctx"].accepts(length):
        raise make_invalid_value("info.context_length", "a whole number from 1")
    return {
        "parameters": model_defaults.validate_model_parameters(parameters),
        "system": read_field(body, "system", STR, "system") or None,
        "license": "\n".join(map(str, license_)) if isinstance(license_, list) else license_,
        "context_length": length,
        "capabilities": tuple(capabilities) if capabilities else None,
    }


def build_remote_model(host: str, body: Json, common: Json) -> RegisteredModel:
    kind = read_field(body, "remote_type", STR, "remote_type") or "openai"
    check_enum(kind, tuple(REMOTE_TYPES), "remote_type")
    key = read_field(body, "remote_api_key", STR, "remote_api_key") or None
    if key is not None and (not _KEY_PATTERN.fullmatch(key) or key == PASSTHROUGH_KEY):
        raise make_invalid_value("remote_api_key", "a key without spaces, in plain ASCII")
    named = read_field(body, "provider", STR, "provider") or ""
    query = read_field(body, "remote_query", DICT, "remote_query") or {}
    if not all(isinstance(value, str) for value in query.values()):
        raise make_invalid_value("remote_query", "an object of strings")
    sent = read_field(body, "remote_headers", DICT, "remote_headers") or {}
    check_headers(sent)
    return RegisteredModel(
        **common,
        host=read_base_url(host, kind),
        kind=kind,
        provider=parse_setting(parse_provider, named, "provider"),
        key=key,
        headers=dict(parse_setting(parse_headers, json.dumps(sent), "remote_headers"))
        if sent
        else {},
        query=query,
    )


def check_headers(given: Json) -> None:
    """Raise InvalidRequest for headers of the connection or of its framing, which are not its own.

    With one of these a remote and a proxy on the way to it could disagree where a request ends.
    """
    names = [name.lower() for name in given]
    for name in given:
        if is_connection_header(name.lower()):
            raise InvalidRequest(
                f"Invalid value for 'remote_headers': '{name[:200]}' is set by the connection.",
                param="remote_headers",
                code="invalid_value",
            )
    if len(set(names)) < len(names):
        raise make_invalid_value("remote_headers", "an object that names each header once")


def read_base_url(host: str, kind: str) -> str:
    """The base URL; of an Ollama server, that of its OpenAI-compatible API."""
    given = host if "://" in host else f"https://{host}"
    base = str(parse_setting(parse_http_url, given, "remote_host"))
    if kind == "ollama":
        base = base.removesuffix("/api")
        return base if urlsplit(base).path else f"{base}/v1"
    return base


def parse_setting(parse: Parser[Any], text: str, param: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise make_invalid_value(param, str(error)) from None


def make_invalid_value(param: str, must_be: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': it must be {must_be}.", param=param, code="invalid_value"
    )


def read_flag(body: Json, name: str, default: bool) -> bool:
    """A switch in a request."""
    value = body.get(name)
    return default if value is None else bool(check_type(value, BOOL, name))

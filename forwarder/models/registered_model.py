"""A registered model: parsing its create request, and deriving its upstream settings.

A model without a host is an additional name for a configured model, with its own defaults.
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
    CHAT_API,
    PASSTHROUGH_KEY,
    RESPONSES_API,
    Parser,
    parse_headers,
    parse_http_url,
    parse_provider,
    parse_quirks,
)
from forwarder.config.settings import UpstreamSettings, make_upstream_settings
from forwarder.core.client_headers import is_connection_header
from forwarder.core.errors import InvalidRequest, Unsupported, UpstreamKeyRefused
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, DICT, LIST, STR, check_enum, check_type, read_field
from forwarder.protocols import model_defaults
from forwarder.protocols.model_defaults import ModelDefaults

LATEST_TAG = ":latest"
"""The tag of a name without a tag: ``[host/][namespace/]model[:tag]``."""

_PART_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME_PATTERN = re.compile(
    rf"({_PART_PATTERN}/){{0,2}}{_PART_PATTERN}(:{_PART_PATTERN})?", re.ASCII
)


class RemoteType(NamedTuple):
    """The protocol of a ``remote_type``, and its default provider profile.

    ``own_path`` is the path of the server's own API, which stands beside its OpenAI-compatible
    API at ``/v1``.
    """

    apis: frozenset[str]
    provider: str = ""
    own_path: str = ""


REMOTE_TYPES: Mapping[str, RemoteType] = {
    "openai": RemoteType(CHAT_API),
    "openai-responses": RemoteType(RESPONSES_API),
    "ollama": RemoteType(CHAT_API, "ollama", own_path="/api"),
}

CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding", "insert", "audio")

_KEY_PATTERN = re.compile(r"[!-~]+")
_MAX_NAME_CHARACTERS = 200
"""Maximum length of the remote's name for a model."""


@dataclass(frozen=True, eq=False)
class RegisteredModel:
    """A registered model.

    ``name`` includes its tag. ``model`` is the remote's name for it; without a ``host``, it is the
    name of a configured model. ``created`` and ``modified`` are in Unix seconds. ``capabilities``
    is ``None`` if the create request had none. ``quirks`` override fields of the remote's provider
    profile, as ``<NAME>_QUIRKS`` does for a configured upstream. ``locked`` means that its secrets
    could not be decrypted.
    """

    name: str
    model: str
    host: str = ""
    kind: str = "openai"
    provider: str = ""
    quirks: Mapping[str, Any] = field(default_factory=dict)
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
        """The settings of its upstream. The tag keeps its name distinct from configured ones."""
        return make_upstream_settings(
            self.name,
            base_url=self.host,
            api_key=self.key,
            apis=REMOTE_TYPES[self.kind].apis,
            provider=self.provider or REMOTE_TYPES[self.kind].provider,
            headers=self.headers,
            query=self.query,
            quirks=self.quirks,
            context_window=self.context_window,
            registered=True,
        )

    @cached_property
    def defaults(self) -> ModelDefaults:
        """The defaults for parameters and system prompt of requests to it."""
        return ModelDefaults(self.parameters, self.system)

    @property
    def context_window(self) -> int | None:
        """Its context window in tokens, if known."""
        return self.parameters.get("num_ctx") or self.context_length

    @property
    def can_answer(self) -> bool:
        """False for a model that can only embed."""
        capabilities = self.capabilities or ()
        return "completion" in capabilities or "embedding" not in capabilities

    @property
    def protocol(self) -> str:
        """The protocol of its remote."""
        return next(iter(REMOTE_TYPES[self.kind].apis))

    def require_key(self) -> RegisteredModel:
        """Return the model itself; raises UpstreamKeyRefused if its secrets are locked."""
        if self.locked:
            raise UpstreamKeyRefused(
                f"The key of the model '{strip_tag(self.name)}' cannot be decrypted: "
                "the forwarder no longer has the secret that encrypted it."
            )
        return self

    def get_public_fields(self) -> Json:
        """Return the stored plain fields, without name, version and times."""
        return {
            name: to_plain_value(getattr(self, name))
            for name in _PUBLIC_FIELDS
            if getattr(self, name)
        }

    def get_secret_fields(self) -> Json | None:
        """Return the fields to encrypt, or ``None``; headers and query may hold secrets too."""
        fields = {name: getattr(self, name) for name in _SECRET_FIELDS}
        return {k: to_plain_value(v) for k, v in fields.items() if v} or None


_PUBLIC_FIELDS = (
    "model", "host", "kind", "provider", "quirks", "parameters", "system", "license",
    "context_length", "capabilities",
)  # fmt: skip
_SECRET_FIELDS = ("key", "headers", "query")


def to_plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def restore_model(public: Json, secrets: Json, **rest: Any) -> RegisteredModel:
    """Rebuild a stored model from its public and its decrypted secret fields."""
    fields = {name: public[name] for name in _PUBLIC_FIELDS if name in public}
    if "capabilities" in fields:
        fields["capabilities"] = tuple(fields["capabilities"])
    return RegisteredModel(
        **fields, **{name: secrets[name] for name in _SECRET_FIELDS if name in secrets}, **rest
    )


# -- requests -----------------------------------------------------------------------------------

_NO_LOCAL_MODELS = "the forwarder does not store models, only references to remote ones"
_UNSUPPORTED_FIELDS = {
    "files": _NO_LOCAL_MODELS,
    "adapters": _NO_LOCAL_MODELS,
    "quantize": _NO_LOCAL_MODELS,
    "quantization": _NO_LOCAL_MODELS,
    "draft_files": _NO_LOCAL_MODELS,
    "draft_quantize": _NO_LOCAL_MODELS,
    "template": "the remote formats its own prompts",
    "renderer": "the remote formats its own prompts",
    "parser": "the remote parses its own answers",
    "messages": "only a system prompt can be added to requests",
    "modelfile": "send its instructions as fields: from, parameters, system",
    "path": _NO_LOCAL_MODELS,
}
_ACCEPTED_FIELDS = frozenset(
    {
        "model", "name", "from", "stream", "verify", "remote_host", "remote_type",
        "remote_api_key", "remote_headers", "remote_query", "provider", "quirks", "parameters",
        "system", "license", "info", "requires",
    }
)  # fmt: skip
_REMOTE_FIELDS = (
    "remote_type", "remote_api_key", "remote_headers", "remote_query", "provider", "quirks",
)  # fmt: skip


def read_name(body: Json) -> str:
    """Return the model name in an Ollama request body; raises InvalidRequest if it has none."""
    name = read_field(body, "model", STR, "model") or read_field(body, "name", STR, "name")
    if not name:
        raise InvalidRequest("model is required", param="model", code="missing_required_parameter")
    return str(name)


def validate_name(name: str, param: str) -> str:
    """Return the name with its tag; raises InvalidRequest if it is not a valid model name."""
    if not is_valid_name(name):
        raise InvalidRequest(
            f"Invalid value for '{param}': a model name consists of letters, digits, '_', '-' and "
            "'.', with an optional namespace before '/' and an optional tag after ':'.",
            param=param,
            code="invalid_value",
        )
    return add_tag(name)


def read_create_request(body: Json) -> RegisteredModel:
    """Parse the body of an Ollama create request; without ``remote_host`` the model is a copy.

    Raises InvalidRequest that names the wrong field, or Unsupported for fields of local models.
    """
    for name, reason in _UNSUPPORTED_FIELDS.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    unknown = sorted(body.keys() - _ACCEPTED_FIELDS - _UNSUPPORTED_FIELDS.keys())
    if unknown:  # ignoring a misspelled 'remote_api_key' would only fail later, at the remote
        raise InvalidRequest(
            f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter"
        )
    name = validate_name(read_name(body), "model")
    source = read_field(body, "from", STR, "from")
    if not source or len(source) > _MAX_NAME_CHARACTERS:
        raise InvalidRequest(
            f"'from' must be the remote's name for the model, at most {_MAX_NAME_CHARACTERS} "
            "characters long.",
            param="from",
            code="missing_required_parameter",
        )
    common = {"name": name, "model": str(source), **read_own_fields(body)}
    host = read_field(body, "remote_host", STR, "remote_host")
    if not host:
        for field_ in _REMOTE_FIELDS:
            if body.get(field_):
                raise InvalidRequest(
                    f"'{field_}' requires 'remote_host'.", param=field_, code="invalid_value"
                )
        return RegisteredModel(**common)
    return build_remote_model(str(host), body, common)


def copy_model(source: RegisteredModel, target: RegisteredModel) -> RegisteredModel:
    """Copy a registered model to the name of ``target``, whose fields override the source's."""
    return replace(
        source,
        name=target.name,
        parameters={**source.parameters, **target.parameters},
        system=target.system or source.system,
        license=target.license or source.license,
        context_length=target.context_length or source.context_length,
        capabilities=target.capabilities or source.capabilities,
    )


def read_own_fields(body: Json) -> Json:
    """Read and validate the fields that do not concern the remote."""
    parameters = read_field(body, "parameters", DICT, "parameters") or {}
    license_ = read_field(body, "license", (*STR, *LIST), "license")
    info = read_field(body, "info", DICT, "info") or {}
    capabilities = read_field(info, "capabilities", LIST, "info.capabilities")
    for capability in capabilities or ():
        check_enum(capability, CAPABILITIES, "info.capabilities")
    length = info.get("context_length")
    if length is not None and not model_defaults.MODEL_PARAMETERS["num_ctx"].accepts(length):
        raise make_invalid_value("info.context_length", "a positive integer")
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
        raise make_invalid_value("remote_api_key", "printable ASCII without spaces")
    provider = read_field(body, "provider", STR, "provider") or ""
    query = read_field(body, "remote_query", DICT, "remote_query") or {}
    if not all(isinstance(value, str) for value in query.values()):
        raise make_invalid_value("remote_query", "an object with string values")
    headers = read_field(body, "remote_headers", DICT, "remote_headers") or {}
    check_headers(headers)
    if headers:
        headers = dict(parse_setting(parse_headers, json.dumps(headers), "remote_headers"))
    quirks = read_field(body, "quirks", DICT, "quirks") or {}
    return RegisteredModel(
        **common,
        host=read_base_url(host, kind),
        kind=kind,
        provider=parse_setting(parse_provider, provider, "provider"),
        quirks=dict(parse_setting(parse_quirks, json.dumps(quirks), "quirks")),
        key=key,
        headers=headers,
        query=query,
    )


def check_headers(headers: Json) -> None:
    """Raise InvalidRequest for duplicate headers and for headers of connection and framing.

    A framing header could make the remote and a proxy disagree about the end of a request.
    """
    for name in headers:
        if is_connection_header(name.lower()):
            raise InvalidRequest(
                f"Invalid value for 'remote_headers': the HTTP client sets '{name[:200]}' itself.",
                param="remote_headers",
                code="invalid_value",
            )
    if len({name.lower() for name in headers}) < len(headers):
        raise make_invalid_value("remote_headers", "an object that names each header once")


def read_base_url(host: str, kind: str) -> str:
    """Return the base URL of the OpenAI-compatible API."""
    url = host if "://" in host else f"https://{host}"
    base = str(parse_setting(parse_http_url, url, "remote_host"))
    own_path = REMOTE_TYPES[kind].own_path
    if own_path:
        base = base.removesuffix(own_path)
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
    """Return a boolean field of a request body, or ``default`` if it is absent or null."""
    value = body.get(name)
    return default if value is None else bool(check_type(value, BOOL, name))


# -- names -------------------------------------------------------------------------------------


def is_valid_name(name: str) -> bool:
    """Check whether a model can be registered under this name."""
    return _NAME_PATTERN.fullmatch(name) is not None


def add_tag(name: str) -> str:
    """Append ``:latest`` to a name without a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST_TAG


def strip_tag(name: str) -> str:
    """Remove ``:latest`` from a name; other tags stay."""
    return name.removesuffix(LATEST_TAG)

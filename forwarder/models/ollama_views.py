"""What Ollama's clients are told of models, in the shapes of its API; never a key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from forwarder.context.route import Route
from forwarder.core.types import Json
from forwarder.models.names import add_tag, strip_tag
from forwarder.models.registered_model import RegisteredModel
from forwarder.providers import Profile, apply_model_overrides, is_reasoning_model, select_profile

_NEVER_EXPIRES = "2318-01-01T00:00:00Z"
"""Until when what needs no room stays loaded; Ollama says about the same of ``keep_alive: -1``."""

_MAX_TIMESTAMP_SECONDS = 2**33
"""Seconds behind which a time is none: some lists have milliseconds."""

_EMBEDDING_PATTERN = re.compile(r"embed", re.I)
"""Models whose names say that they make vectors, and no answers."""

_PARAMETER_COLUMN_WIDTH = 30
"""Where Ollama has the values of parameters begin."""


@dataclass(frozen=True)
class ModelView:
    """A model as far as anybody may know it; ``remote`` is ``None`` for one of the configuration.

    ``model`` is the upstream's name for it, ``family`` whose profile it has.
    """

    name: str
    model: str
    profile: Profile
    modified: float
    context_window: int | None = None
    remote: RegisteredModel | None = None


def view_registered(remote: RegisteredModel, route: Route | None = None) -> ModelView:
    """A registered model; ``route`` says where one leads that has no host of its own."""
    if route is not None and not remote.host:
        settings = route.upstream
        known = select_profile(settings.provider, settings.base_url, settings.quirks)
        window = remote.context_window or settings.context_window
        profile = apply_model_overrides(known, route.model)
        return ModelView(remote.name, route.model, profile, remote.modified, window, remote)
    known = select_profile(remote.upstream.provider, remote.host, {})
    profile = apply_model_overrides(known, remote.model)
    return ModelView(
        remote.name, remote.model, profile, remote.modified, remote.context_window, remote
    )


def view_configured(model: Json, route: Route) -> ModelView:
    """One of the catalog's models."""
    settings = route.upstream
    known = select_profile(settings.provider, settings.base_url, settings.quirks)
    created = model.get("created")
    modified = (
        created
        if isinstance(created, int | float) and 0 <= created < _MAX_TIMESTAMP_SECONDS
        else 0.0
    )
    profile = apply_model_overrides(known, route.model)
    return ModelView(add_tag(model["id"]), route.model, profile, modified, settings.context_window)


def make_tag_entry(shown: ModelView) -> Json:
    """An entry of ``/api/tags``."""
    told = serialize_model(shown)
    return {
        "name": shown.name,
        "model": shown.name,
        **describe_location(shown),
        "modified_at": format_time(shown.modified),
        "size": len(told),
        "digest": hashlib.sha256(told).hexdigest(),
        "details": make_details(shown),
        "capabilities": list_capabilities(shown),
    }


def make_running_entry(shown: ModelView) -> Json:
    """An entry of ``/api/ps``: a remote model is always ready, and needs no room here."""
    entry = {
        k: v for k, v in make_tag_entry(shown).items() if k not in ("modified_at", "capabilities")
    }
    return {
        **entry,
        "size_vram": 0,
        "expires_at": _NEVER_EXPIRES,
        "context_length": shown.context_window or 0,
    }


def make_description(shown: ModelView, health: Json | None) -> Json:
    """The answer of ``/api/show``; ``health`` is what the last check found."""
    remote = shown.remote
    parameters = "\n".join(format_parameters(remote, f"{{:<{_PARAMETER_COLUMN_WIDTH}}} {{}}"))
    family = shown.profile.name
    info: Json = {"general.architecture": family, "general.basename": shown.model}
    if shown.context_window:
        info[f"{family}.context_length"] = shown.context_window
    return {
        "license": (remote.license if remote else None) or "",
        "modelfile": make_modelfile(shown),
        "parameters": parameters,
        "template": "",
        "system": (remote.system if remote else None) or "",
        "details": make_details(shown),
        **describe_location(shown),
        "model_info": info,
        "capabilities": list_capabilities(shown),
        "modified_at": format_time(shown.modified),
        **({"health": health} if health else {}),
    }


def list_capabilities(shown: ModelView) -> list[str]:
    """What a model can do: as whoever registered it said, or as its profile knows."""
    said = shown.remote.capabilities if shown.remote else None
    return list(said) if said else list(guess_capabilities(shown))


def guess_capabilities(shown: ModelView) -> Iterator[str]:
    if _EMBEDDING_PATTERN.search(shown.model):
        yield "embedding"
        return
    yield "completion"
    yield "tools"
    if shown.profile.image_url != "none":
        yield "vision"
    if shown.profile.thinking_switch != "effort" or is_reasoning_model(shown.profile, shown.model):
        yield "thinking"


def serialize_model(shown: ModelView) -> bytes:
    told = shown.remote.get_public_fields() if shown.remote else {"model": shown.model}
    return orjson.dumps([shown.name, told], option=orjson.OPT_SORT_KEYS)


def describe_location(shown: ModelView) -> Json:
    host = {"remote_host": shown.remote.host} if shown.remote and shown.remote.host else {}
    return {"remote_model": shown.model, **host}


def make_details(shown: ModelView) -> Json:
    family = shown.profile.name
    copied = shown.remote is not None and not shown.remote.host
    return {
        "parent_model": shown.remote.model if copied and shown.remote else "",
        "format": "",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
        **({"context_length": shown.context_window} if shown.context_window else {}),
    }


def make_modelfile(shown: ModelView) -> str:
    lines = [f"# {strip_tag(shown.name)}", f"FROM {shown.model}"]
    lines += format_parameters(shown.remote, "PARAMETER {} {}")
    if shown.remote and shown.remote.system:
        lines.append(f'SYSTEM """{shown.remote.system}"""')
    return "\n".join(lines) + "\n"


def format_parameters(remote: RegisteredModel | None, form: str) -> Iterator[str]:
    for name, value in (remote.parameters if remote else {}).items():
        for each in value if isinstance(value, list) else [value]:
            yield form.format(name, _written(each))


def _written(value: Any) -> str:
    return orjson.dumps(value).decode()


def format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

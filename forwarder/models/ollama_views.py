"""Models as responses of Ollama's API (``/api/tags``, ``/api/ps``, ``/api/show``); never a key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from forwarder.context.request_context import Route
from forwarder.core.types import Json
from forwarder.models.registered_model import RegisteredModel, add_tag, strip_tag
from forwarder.providers import Profile, apply_model_overrides, is_reasoning_model, select_profile

_NEVER_EXPIRES = "2318-01-01T00:00:00Z"
"""``expires_at`` of remote models, which occupy no memory. Ollama uses a similar date for
``keep_alive: -1``.
"""

_MAX_TIMESTAMP_SECONDS = 2**33
"""Larger values are not Unix seconds; some model lists use milliseconds."""

_EMBEDDING_PATTERN = re.compile(r"embed", re.I)
"""Matches the names of embedding models."""

_PARAMETER_COLUMN_WIDTH = 30
"""Column at which parameter values start, as in Ollama's output."""


@dataclass(frozen=True)
class ModelView:
    """The public information about a model.

    ``name`` is the client's name, ``model`` the upstream's name. ``modified`` is in Unix seconds,
    ``context_window`` in tokens. ``remote`` is ``None`` for a configured model.
    """

    name: str
    model: str
    profile: Profile
    modified: float
    context_window: int | None = None
    remote: RegisteredModel | None = None


def view_registered(remote: RegisteredModel, route: Route | None = None) -> ModelView:
    """View a registered model; ``route`` is the target of a model without its own host."""
    if route is not None and not remote.host:
        settings = route.upstream
        known = select_profile(settings.provider, settings.base_url, settings.quirks)
        window = remote.context_window or settings.context_window
        profile = apply_model_overrides(known, route.model)
        return ModelView(remote.name, route.model, profile, remote.modified, window, remote)
    known = select_profile(remote.upstream.provider, remote.host, remote.quirks)
    profile = apply_model_overrides(known, remote.model)
    return ModelView(
        remote.name, remote.model, profile, remote.modified, remote.context_window, remote
    )


def view_configured(model: Json, route: Route) -> ModelView:
    """View a model object of the catalog."""
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
    """Return the model's entry in ``/api/tags``."""
    fields = shown.remote.get_public_fields() if shown.remote else {"model": shown.model}
    serialized = orjson.dumps([shown.name, fields], option=orjson.OPT_SORT_KEYS)
    return {
        "name": shown.name,
        "model": shown.name,
        **describe_location(shown),
        "modified_at": format_time(shown.modified),
        "size": len(serialized),
        "digest": hashlib.sha256(serialized).hexdigest(),
        "details": make_details(shown),
        "capabilities": list_capabilities(shown),
    }


def make_running_entry(shown: ModelView) -> Json:
    """Return the model's entry in ``/api/ps``: always loaded, without local memory."""
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
    """Return the body of ``/api/show``; ``health`` is the last probe result as JSON."""
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
    """Return the capabilities given at registration, otherwise those derived from the profile."""
    registered = shown.remote.capabilities if shown.remote else None
    return list(registered or guess_capabilities(shown))


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


def describe_location(shown: ModelView) -> Json:
    host = {"remote_host": shown.remote.host} if shown.remote and shown.remote.host else {}
    return {"remote_model": shown.model, **host}


def make_details(shown: ModelView) -> Json:
    family = shown.profile.name
    return {
        "parent_model": shown.remote.model if shown.remote and not shown.remote.host else "",
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
            yield form.format(name, orjson.dumps(each).decode())


def format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

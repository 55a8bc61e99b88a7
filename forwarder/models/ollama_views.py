"""Models as responses of Ollama's API (``/api/tags``, ``/api/ps``, ``/api/show``), without keys."""

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
        base_profile = select_profile(settings.provider, settings.base_url, settings.quirks)
        window = remote.context_window or settings.context_window
        profile = apply_model_overrides(base_profile, route.model)
        return ModelView(remote.name, route.model, profile, remote.modified, window, remote)
    base_profile = select_profile(remote.upstream.provider, remote.host, remote.quirks)
    profile = apply_model_overrides(base_profile, remote.model)
    return ModelView(
        remote.name, remote.model, profile, remote.modified, remote.context_window, remote
    )


def view_configured(model: Json, route: Route) -> ModelView:
    """View a model object of the catalog."""
    settings = route.upstream
    base_profile = select_profile(settings.provider, settings.base_url, settings.quirks)
    created = model.get("created")
    modified = (
        created
        if isinstance(created, int | float) and 0 <= created < _MAX_TIMESTAMP_SECONDS
        else 0.0
    )
    profile = apply_model_overrides(base_profile, route.model)
    return ModelView(add_tag(model["id"]), route.model, profile, modified, settings.context_window)


def make_tag_entry(view: ModelView) -> Json:
    """Return the model's entry in ``/api/tags``."""
    fields = view.remote.get_public_fields() if view.remote else {"model": view.model}
    serialized = orjson.dumps([view.name, fields], option=orjson.OPT_SORT_KEYS)
    return {
        "name": view.name,
        "model": view.name,
        **describe_location(view),
        "modified_at": format_time(view.modified),
        "size": len(serialized),
        "digest": hashlib.sha256(serialized).hexdigest(),
        "details": make_details(view),
        "capabilities": list_capabilities(view),
    }


def make_running_entry(view: ModelView) -> Json:
    """Return the model's entry in ``/api/ps``: always loaded, without local memory."""
    entry = {
        k: v for k, v in make_tag_entry(view).items() if k not in ("modified_at", "capabilities")
    }
    return {
        **entry,
        "size_vram": 0,
        "expires_at": _NEVER_EXPIRES,
        "context_length": view.context_window or 0,
    }


def make_description(view: ModelView, health: Json | None) -> Json:
    """Return the body of ``/api/show``; ``health`` is the last probe result as JSON."""
    remote = view.remote
    parameters = "\n".join(format_parameters(remote, f"{{:<{_PARAMETER_COLUMN_WIDTH}}} {{}}"))
    family = view.profile.name
    info: Json = {"general.architecture": family, "general.basename": view.model}
    if view.context_window:
        info[f"{family}.context_length"] = view.context_window
    return {
        "license": (remote.license if remote else None) or "",
        "modelfile": make_modelfile(view),
        "parameters": parameters,
        "template": "",
        "system": (remote.system if remote else None) or "",
        "details": make_details(view),
        **describe_location(view),
        "model_info": info,
        "capabilities": list_capabilities(view),
        "modified_at": format_time(view.modified),
        **({"health": health} if health else {}),
    }


def list_capabilities(view: ModelView) -> list[str]:
    """Return the capabilities given at registration, otherwise those derived from the profile."""
    registered = view.remote.capabilities if view.remote else None
    return list(registered or guess_capabilities(view))


def guess_capabilities(view: ModelView) -> Iterator[str]:
    if _EMBEDDING_PATTERN.search(view.model):
        yield "embedding"
        return
    yield "completion"
    yield "tools"
    if view.profile.image_url != "none":
        yield "vision"
    if view.profile.thinking_switch != "effort" or is_reasoning_model(view.profile, view.model):
        yield "thinking"


def describe_location(view: ModelView) -> Json:
    host = {"remote_host": view.remote.host} if view.remote and view.remote.host else {}
    return {"remote_model": view.model, **host}


def make_details(view: ModelView) -> Json:
    family = view.profile.name
    return {
        "parent_model": view.remote.model if view.remote and not view.remote.host else "",
        "format": "",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
        **({"context_length": view.context_window} if view.context_window else {}),
    }


def make_modelfile(view: ModelView) -> str:
    lines = [f"# {strip_tag(view.name)}", f"FROM {view.model}"]
    lines += format_parameters(view.remote, "PARAMETER {} {}")
    if view.remote and view.remote.system:
        lines.append(f'SYSTEM """{view.remote.system}"""')
    return "\n".join(lines) + "\n"


def format_parameters(remote: RegisteredModel | None, form: str) -> Iterator[str]:
    for name, value in (remote.parameters if remote else {}).items():
        for each in value if isinstance(value, list) else [value]:
            yield form.format(name, orjson.dumps(each).decode())


def format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

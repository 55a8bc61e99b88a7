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
from forwarder.models.names import full, short
from forwarder.models.registered_model import Remote
from forwarder.providers import Profile, for_model, is_reasoning_model, profile_for

_FOREVER = "2318-01-01T00:00:00Z"
"""Until when what needs no room stays loaded; Ollama says about the same of ``keep_alive: -1``."""

_LATE = 2**33
"""Seconds behind which a time is none: some lists have milliseconds."""

_EMBEDS = re.compile(r"embed", re.I)
"""Models whose names say that they make vectors, and no answers."""

_WIDTH = 30
"""Where Ollama has the values of parameters begin."""


@dataclass(frozen=True)
class Shown:
    """A model as far as anybody may know it; ``remote`` is ``None`` for one of the configuration.

    ``model`` is the upstream's name for it, ``family`` whose profile it has.
    """

    name: str
    model: str
    profile: Profile
    modified: float
    window: int | None = None
    remote: Remote | None = None


def of_remote(remote: Remote, route: Route | None = None) -> Shown:
    """A registered model; ``route`` says where one leads that has no host of its own."""
    if route is not None and not remote.host:
        settings = route.upstream
        known = profile_for(settings.provider, settings.base_url, settings.quirks)
        window = remote.window or settings.context_window
        profile = for_model(known, route.model)
        return Shown(remote.name, route.model, profile, remote.modified, window, remote)
    known = profile_for(remote.upstream.provider, remote.host, {})
    profile = for_model(known, remote.model)
    return Shown(remote.name, remote.model, profile, remote.modified, remote.window, remote)


def of_configured(model: Json, route: Route) -> Shown:
    """One of the catalog's models."""
    settings = route.upstream
    known = profile_for(settings.provider, settings.base_url, settings.quirks)
    created = model.get("created")
    modified = created if isinstance(created, int | float) and 0 <= created < _LATE else 0.0
    profile = for_model(known, route.model)
    return Shown(full(model["id"]), route.model, profile, modified, settings.context_window)


def tag(shown: Shown) -> Json:
    """An entry of ``/api/tags``."""
    told = _told(shown)
    return {
        "name": shown.name,
        "model": shown.name,
        **_where(shown),
        "modified_at": _time(shown.modified),
        "size": len(told),
        "digest": hashlib.sha256(told).hexdigest(),
        "details": _details(shown),
        "capabilities": capabilities(shown),
    }


def running(shown: Shown) -> Json:
    """An entry of ``/api/ps``: a remote model is always ready, and needs no room here."""
    entry = {k: v for k, v in tag(shown).items() if k not in ("modified_at", "capabilities")}
    return {
        **entry,
        "size_vram": 0,
        "expires_at": _FOREVER,
        "context_length": shown.window or 0,
    }


def description(shown: Shown, health: Json | None) -> Json:
    """The answer of ``/api/show``; ``health`` is what the last check found."""
    remote = shown.remote
    parameters = "\n".join(_parameters(remote, f"{{:<{_WIDTH}}} {{}}"))
    family = shown.profile.name
    info: Json = {"general.architecture": family, "general.basename": shown.model}
    if shown.window:
        info[f"{family}.context_length"] = shown.window
    return {
        "license": (remote.license if remote else None) or "",
        "modelfile": _modelfile(shown),
        "parameters": parameters,
        "template": "",
        "system": (remote.system if remote else None) or "",
        "details": _details(shown),
        **_where(shown),
        "model_info": info,
        "capabilities": capabilities(shown),
        "modified_at": _time(shown.modified),
        **({"health": health} if health else {}),
    }


def capabilities(shown: Shown) -> list[str]:
    """What a model can do: as whoever registered it said, or as its profile knows."""
    said = shown.remote.capabilities if shown.remote else None
    return list(said) if said else list(_guessed(shown))


def _guessed(shown: Shown) -> Iterator[str]:
    if _EMBEDS.search(shown.model):
        yield "embedding"
        return
    yield "completion"
    yield "tools"
    if shown.profile.image_url != "none":
        yield "vision"
    if shown.profile.thinking_switch != "effort" or is_reasoning_model(shown.profile, shown.model):
        yield "thinking"


def _told(shown: Shown) -> bytes:
    told = shown.remote.told() if shown.remote else {"model": shown.model}
    return orjson.dumps([shown.name, told], option=orjson.OPT_SORT_KEYS)


def _where(shown: Shown) -> Json:
    host = {"remote_host": shown.remote.host} if shown.remote and shown.remote.host else {}
    return {"remote_model": shown.model, **host}


def _details(shown: Shown) -> Json:
    family = shown.profile.name
    copied = shown.remote is not None and not shown.remote.host
    return {
        "parent_model": shown.remote.model if copied and shown.remote else "",
        "format": "",
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
        **({"context_length": shown.window} if shown.window else {}),
    }


def _modelfile(shown: Shown) -> str:
    lines = [f"# {short(shown.name)}", f"FROM {shown.model}"]
    lines += _parameters(shown.remote, "PARAMETER {} {}")
    if shown.remote and shown.remote.system:
        lines.append(f'SYSTEM """{shown.remote.system}"""')
    return "\n".join(lines) + "\n"


def _parameters(remote: Remote | None, form: str) -> Iterator[str]:
    for name, value in (remote.parameters if remote else {}).items():
        for each in value if isinstance(value, list) else [value]:
            yield form.format(name, _written(each))


def _written(value: Any) -> str:
    return orjson.dumps(value).decode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

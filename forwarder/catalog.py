"""What the upstreams list, and whether they answer; asked at most once every few seconds."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from forwarder.errors import ForwarderError, UpstreamRefused
from forwarder.routing import Router
from forwarder.translate.call import Json
from forwarder.upstream import Upstream

_TIMEOUT = 5.0
"""Seconds that an upstream has for its list."""


class Catalog:
    """The lists of all upstreams, kept for ``ttl`` seconds."""

    def __init__(self, router: Router, upstreams: dict[str, Upstream], ttl: float) -> None:
        self._router = router
        self._upstreams = upstreams
        self._ttl = ttl
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._lists: dict[str, list[Json] | ForwarderError] = {}

    def models(self) -> list[Json]:
        """Model objects under the names that requests can use, configured ones first."""
        found: dict[str, Json] = {}
        for model_id, upstream in self._router.models():
            found[model_id] = _model(model_id, upstream)
        for name, listed in self._fresh().items():
            for model in listed if isinstance(listed, list) else ():
                public = self._router.public_id(name, model["id"])
                found.setdefault(public, {**_model(public, name), **model, "id": public})
        return list(found.values())

    def states(self, verbose: bool = False) -> dict[str, Any]:
        """Upstream name -> ``{reachable, models}`` or ``{reachable, error}``.

        With ``verbose`` also ``{provider, learned}``: whose profile it has, and by model what its
        refusals have taught.
        """
        states = {name: _state(listed) for name, listed in self._fresh().items()}
        return {n: {**s, **self._told(n)} for n, s in states.items()} if verbose else states

    def _told(self, name: str) -> Json:
        upstream = self._upstreams[name]
        return {"provider": upstream.profile.name, "learned": upstream.lessons.shown()}

    def _fresh(self) -> dict[str, list[Json] | ForwarderError]:
        with self._lock:
            if time.monotonic() - self._asked > self._ttl:
                with ThreadPoolExecutor(max(1, len(self._upstreams))) as at_once:
                    asked = at_once.map(_ask, self._upstreams.values())
                    self._lists = dict(zip(self._upstreams, asked, strict=True))
                self._asked = time.monotonic()
            return self._lists


def _ask(upstream: Upstream) -> list[Json] | ForwarderError:
    try:
        return upstream.models(_TIMEOUT)
    except ForwarderError as error:
        return error


def _state(listed: list[Json] | ForwarderError) -> Json:
    if isinstance(listed, list):
        return {"reachable": True, "models": len(listed)}
    # Not every provider lists its models; an answer, whatever it says, shows that it is there.
    if isinstance(listed, UpstreamRefused) and listed.status < 500:
        return {"reachable": True, "models": None}
    return {"reachable": False, "error": listed.message}


def _model(model_id: str, owner: str) -> Json:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": owner}

"""The response headers that Codex reads.

``X-Reasoning-Included`` says that the reported usage counts the reasoning of earlier turns.
Without it Codex adds an estimate of its own and compacts too early.  ``X-Models-Etag`` tells it
that the catalog has changed, and ``OpenAI-Model`` which model has answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from forwarder.errors import ForwarderError
from forwarder.routing import Route, Router

REASONING_INCLUDED = "x-reasoning-included"
MODEL = "openai-model"
MODELS_ETAG = "x-models-etag"

TURN_METADATA = "X-Codex-Turn-Metadata"
"""A request header of Codex: a JSON object that names the session's model, among others."""


def describe_answer(
    upstream_headers: Mapping[str, str], model: str, route: Route, etag: str
) -> dict[str, str]:
    """The headers of an answer to a Responses client that asked for ``model``.

    A Chat upstream counts all that it is sent.  A Responses upstream says itself whether it does.

    Codex tells its user of a security measure if the model is not the one it asked for.  So the
    client's own name is given, unless the upstream reports that it has taken another model.
    """
    headers = {**upstream_headers, MODELS_ETAG: etag}
    if headers.get(MODEL, route.model) == route.model:
        headers[MODEL] = model
    if route.protocol != "responses":
        headers[REASONING_INCLUDED] = "true"
    if not (headers[MODEL].isascii() and headers[MODEL].isprintable()):
        del headers[MODEL]
    return headers


def describe_connection(
    header: Callable[[str], str | None], router: Router, etag: str
) -> dict[str, str]:
    """The headers with which a WebSocket is accepted; ``header`` gives the request's by name.

    One connection serves one session of Codex, which names its model in the handshake.
    """
    headers = {MODELS_ETAG: etag}
    try:
        protocol = router.resolve(_read_model(header(TURN_METADATA)), "responses").protocol
    except ForwarderError:
        protocol = router.default_route("responses").protocol
    if protocol != "responses":
        headers[REASONING_INCLUDED] = "true"
    return headers


def _read_model(metadata: str | None) -> str | None:
    try:
        value = json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        return None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None

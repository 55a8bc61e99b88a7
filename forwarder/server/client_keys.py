"""``/forwarder/keys``: client keys that are made at run time, for administrators.

Only the responses to the creation and the rotation of a key contain it.
"""

from __future__ import annotations

import time

from flask import Blueprint, Response

from forwarder.client_keys.key import ClientKey, check_fields
from forwarder.client_keys.registry import CreatedKey
from forwarder.core.types import Json
from forwarder.server import request_hooks
from forwarder.server.auth import require_administrator
from forwarder.server.extension import get_services
from forwarder.server.serving import json_answer, read_json_body

blueprint = Blueprint("client_keys", __name__, url_prefix="/forwarder/keys")


@blueprint.before_request
def check_administrator() -> None:
    require_administrator(get_services().settings)


@blueprint.after_request
def forbid_caching(response: Response) -> Response:
    """Answers may contain a new key."""
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.post("")
def create_key() -> Response:
    """Create a key. Only this response contains it."""
    return answer_secret(get_services().client_keys.create(read_body()))


@blueprint.get("")
def list_keys() -> Response:
    """List all keys by name, revoked ones included."""
    keys, now = get_services().client_keys, time.time()
    data = [key.to_json(now) for key in keys.list_keys()]
    return json_answer({"object": "list", "required": keys.are_required(), "data": data})


@blueprint.get("/<name>")
def show_key(name: str) -> Response:
    """Return a key by its id or name, with the used part of its budget."""
    return answer_key(get_services().client_keys.get_key(name))


@blueprint.patch("/<name>")
def change_key(name: str) -> Response:
    """Set the limits in the body; null removes one."""
    return answer_key(get_services().client_keys.change(name, read_body()))


@blueprint.delete("/<name>")
def revoke_key(name: str) -> Response:
    """Revoke a key permanently."""
    return answer_key(get_services().client_keys.revoke(name))


@blueprint.post("/<name>/rotate")
def rotate_key(name: str) -> Response:
    """Replace a key; the previous one stays valid for ``grace``, such as ``24h``."""
    body = read_body(required=False)
    check_fields(body, ("grace",))
    return answer_secret(get_services().client_keys.rotate(name, body.get("grace")))


def read_body(required: bool = True) -> Json:
    return read_json_body(request_hooks.current_context(), required)


def answer_key(key: ClientKey) -> Response:
    services, budget = get_services(), key.grants.budget
    used = None if budget is None else services.budgets.get_used(key.name, budget)
    return json_answer({**key.to_json(time.time()), "budget_used": used})


def answer_secret(created: CreatedKey) -> Response:
    required = get_services().client_keys.are_required()
    return json_answer(
        {**created.key.to_json(time.time()), "key": created.secret, "required": required}
    )

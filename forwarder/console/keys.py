"""The pages of client keys: list, create, limit, rotate and revoke.

A form becomes the body of a request to ``/forwarder/keys``, so that both have the same rules and
errors. Only the page after the creation or rotation of a key shows it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import Response, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.utils import redirect
from werkzeug.wrappers import Response as Redirect

from forwarder.client_keys.budgets import find_period
from forwarder.client_keys.key import ClientKey, format_moment
from forwarder.client_keys.registry import CreatedKey
from forwarder.console.blueprint import blueprint, read_form_field, render_page
from forwarder.core.errors import ForwarderError, InvalidRequest, Unsupported
from forwarder.core.types import Json
from forwarder.protocols.registry import ALL_STYLES
from forwarder.server.extension import get_request, get_services
from forwarder.usage.report import UsageLine

NUMBER_FIELDS = ("requests_per_minute", "tokens_per_minute")
TEXT_FIELDS = ("models", "budget", "expires", "reasoning")
FORM_FIELDS = ("name", *NUMBER_FIELDS, *TEXT_FIELDS)

GRACES = {"": "at once", "1h": "after an hour", "24h": "after a day", "7d": "after 7 days"}
"""Grace period of a rotation -> when the previous key becomes invalid, in words."""

STATE_TONES = {"active": "good", "expired": "warn", "revoked": "bad"}


class KeyForm(NamedTuple):
    """The values of a form, and its error, shown at the field ``param`` or above the form."""

    values: Mapping[str, Any]
    error: str = ""
    param: str = ""


class KeyRow(NamedTuple):
    """A key as the list shows it, with times in UTC; ``usage`` is that of its name this month."""

    id: str
    name: str
    hint: str
    state: str
    tone: str
    models: str
    limits: tuple[str, ...]
    expires: str | None
    last_used: str | None
    usage: UsageLine | None


@blueprint.get("/keys")
def list_keys() -> Response:
    """Show all keys with their usage of this month, and the form for a new one."""
    return render_list(KeyForm({}))


@blueprint.post("/keys")
def create_key() -> Response:
    """Create a key and show it once, or show the form again."""
    form = get_request().form
    try:
        created = get_services().client_keys.create(
            {"name": get_text(form, "name"), **read_body(form)}
        )
    except ForwarderError as error:
        return render_refused(render_list(report_error(form, error)), error)
    return render_secret(created, "created")


@blueprint.get("/keys/<key_id>")
def show_key(key_id: str) -> Response:
    """Show the form with the limits of a key."""
    key = get_services().client_keys.get_key(key_id)
    return render_key(key, KeyForm(fill_form(key)))


@blueprint.post("/keys/<key_id>")
def change_key(key_id: str) -> Response | Redirect:
    """Set all limits of a key to those of the form, or show the form again."""
    keys, form = get_services().client_keys, get_request().form
    key = keys.get_key(key_id)
    try:
        body = read_body(form)
        if body["expires"] == format_moment(key.expires):
            del body["expires"]  # the form's value is not exact and can be in the past
        keys.change(key.id, body)
    except ForwarderError as error:
        return render_refused(render_key(key, report_error(form, error)), error)
    return redirect(url_for("console.list_keys", saved=key.id), 303)


@blueprint.get("/keys/<key_id>/rotate")
def confirm_rotation(key_id: str) -> Response:
    """Ask when the previous key becomes invalid."""
    key = get_services().client_keys.get_key(key_id)
    return render_page("key_rotate.html", key=key, graces=GRACES)


@blueprint.post("/keys/<key_id>/rotate")
def rotate_key(key_id: str) -> Response:
    """Replace a key and show the new one once."""
    created = get_services().client_keys.rotate(key_id, read_form_field("grace"))
    return render_secret(created, "rotated")


@blueprint.get("/keys/<key_id>/revoke")
def confirm_revocation(key_id: str) -> Response:
    """Ask for confirmation before a key is revoked."""
    return render_page("key_revoke.html", key=get_services().client_keys.get_key(key_id))


@blueprint.post("/keys/<key_id>/revoke")
def revoke_key(key_id: str) -> Redirect:
    """Revoke a key."""
    revoked = get_services().client_keys.revoke(key_id)
    return redirect(url_for("console.list_keys", revoked=revoked.id), 303)


# -- the list -------------------------------------------------------------------------------------


def render_list(form: KeyForm) -> Response:
    services = get_services()
    try:
        keys, failure = services.client_keys.list_keys(), ""
    except Unsupported as error:  # there is no database
        keys, failure = [], error.message
    usage = read_month_usage() if keys else {}
    now = time.time()
    rows = [describe_key(key, usage.get(key.name), now) for key in keys]
    names, arguments = {key.id: key.name for key in keys}, get_request().args
    return render_page(
        "keys.html",
        saved=names.get(arguments.get("saved", "")),
        revoked=names.get(arguments.get("revoked", "")),
        rows=sorted(rows, key=lambda row: (row.state == "revoked", row.name)),
        form=form,
        failure=failure,
        are_required=services.client_keys.are_required(),
        setting=services.settings.client_keys,
        action=url_for("console.create_key"),
        styles=ALL_STYLES,
        stored=None,
    )


def read_month_usage() -> dict[str, UsageLine]:
    """Return the usage of this month by client."""
    start, end = find_period("month", time.time())
    lines = get_services().usage_reports.list_totals(start, end, ["client"])
    return {line.client or "": line for line in lines}


def describe_key(key: ClientKey, usage: UsageLine | None, now: float) -> KeyRow:
    """Return the row of a key."""
    grants, state = key.grants, key.get_state(now)
    limits = (
        f"{grants.requests_per_minute:,} requests a minute" if grants.requests_per_minute else "",
        f"{grants.tokens_per_minute:,} tokens a minute" if grants.tokens_per_minute else "",
        str(grants.budget or ""),
    )
    return KeyRow(
        id=key.id,
        name=key.name,
        hint=key.to_json(now)["hint"],
        state=state,
        tone=STATE_TONES[state],
        models=", ".join(grants.models),
        limits=tuple(filter(None, limits)),
        expires=show_moment(key.expires),
        last_used=show_moment(key.last_used),
        usage=usage,
    )


def show_moment(seconds: float | None) -> str | None:
    """Return a time in UTC to the minute, for display; None for None."""
    text = format_moment(seconds)
    return None if text is None else text[:16].replace("T", " ")


# -- forms ----------------------------------------------------------------------------------------


def read_body(form: MultiDict[str, str]) -> Json:
    """Return all limits in the form; an empty field is no limit. Raises InvalidRequest."""
    body: Json = {name: get_text(form, name) or None for name in TEXT_FIELDS}
    for name in NUMBER_FIELDS:
        text = get_text(form, name).replace(",", "")
        if text and not text.isdecimal():
            raise InvalidRequest(
                f"Invalid value for '{name}': expected a number.", param=name, code="invalid_value"
            )
        body[name] = int(text[:20]) if text else None
    return body


def get_text(form: MultiDict[str, str], name: str) -> str:
    return form.get(name, "").strip()


def fill_form(key: ClientKey) -> Json:
    """Return the values of the form for a key."""
    grants = key.grants
    return {
        "name": key.name,
        "models": ", ".join(grants.models),
        "requests_per_minute": grants.requests_per_minute,
        "tokens_per_minute": grants.tokens_per_minute,
        "budget": grants.budget,
        "expires": format_moment(key.expires),
        "reasoning": ", ".join(grants.reasoning),
    }


def report_error(form: MultiDict[str, str], error: ForwarderError) -> KeyForm:
    """Return the form as it was sent, with an error at its field or above it."""
    values = {name: get_text(form, name) for name in FORM_FIELDS}
    return KeyForm(values, error.message, error.param if error.param in FORM_FIELDS else "")


def render_key(key: ClientKey, form: KeyForm) -> Response:
    return render_page(
        "key.html",
        key=key,
        row=describe_key(key, read_month_usage().get(key.name), time.time()),
        form=form,
        action=url_for("console.change_key", key_id=key.id),
        styles=ALL_STYLES,
        stored=key,
    )


def render_refused(page: Response, error: ForwarderError) -> Response:
    page.status_code = error.status
    return page


def render_secret(created: CreatedKey, action: str) -> Response:
    """Show a new key. No later page can show it again."""
    return render_page(
        "key_secret.html",
        key=created.key,
        secret=created.secret,
        action=action,
        previous_until=show_moment(created.key.previous_until),
    )

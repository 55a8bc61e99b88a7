"""The pages that register, change, check, copy and delete models.

A form becomes the body of an ``/api/create`` request, so that both have the same rules and errors.
An error is shown at the field of the parameter that it names. Stored secrets are never sent to the
browser; an empty field keeps the stored one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from flask import Response, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.utils import redirect
from werkzeug.wrappers import Response as Redirect

from forwarder.console.blueprint import blueprint, is_part_request, read_form_field, render_page
from forwarder.console.upstreams import describe_model
from forwarder.core.errors import ForwarderError, InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.models.registered_model import (
    CAPABILITIES,
    REMOTE_TYPES,
    RegisteredModel,
    strip_tag,
)
from forwarder.models.registration import SECRET_FIELDS
from forwarder.models.registry import make_not_found
from forwarder.protocols.model_defaults import MODEL_PARAMETERS
from forwarder.providers import PROFILES
from forwarder.providers.learned_cache import serialize_changes
from forwarder.server.extension import get_request, get_services

TEXT_FIELDS = ("model", "from", "remote_host", "remote_type", "provider", "system", "license")
"""Parameters of ``/api/create`` that are texts."""

PAIR_SEPARATORS = {"remote_headers": ":", "remote_query": "="}
"""Parameter with one pair per line -> separator of name and value."""

OWN_FIELDS = frozenset(
    {
        *TEXT_FIELDS,
        *SECRET_FIELDS,
        *(f"parameters.{name}" for name in MODEL_PARAMETERS),
        "quirks",
        "info.context_length",
        "info.capabilities",
    }
)
"""Parameters that have a field in the form. Other errors are shown above the form."""


class ModelForm(NamedTuple):
    """The values of the form by parameter, and its error. Secrets have no values.

    ``param`` is the field at which ``error`` is shown, ``""`` for an error above the form.
    """

    values: Mapping[str, Any]
    error: str = ""
    param: str = ""


EMPTY_FORM = ModelForm({"remote_type": "openai", "verify": True})


# -- creating and changing ------------------------------------------------------------------------


@blueprint.get("/models/new")
def show_new_model() -> Response:
    """Show an empty form."""
    return render_form(EMPTY_FORM, None)


@blueprint.post("/models/new")
def create_model() -> Response | Redirect:
    """Register a model."""
    return save_model(None)


@blueprint.get("/models/edit/<path:name>")
def show_model(name: str) -> Response:
    """Show a registered model, its state, and the form to change it."""
    stored = find_model(name)
    return render_form(fill_form(stored), stored)


@blueprint.post("/models/edit/<path:name>")
def change_model(name: str) -> Response | Redirect:
    """Replace a registered model. Empty fields keep the stored secrets."""
    return save_model(find_model(name))


def save_model(stored: RegisteredModel | None) -> Response | Redirect:
    """Register the model of the form, which replaces ``stored``, or show the form again."""
    form = get_request().form
    try:
        body = read_body(form)
        if stored is not None:
            body["model"] = stored.name
        else:
            require_new_name(get_text(form, "model"), "model")
        keep = list_kept_secrets(form) if stored is not None else []
        created = get_services().registration.create(body, keep=keep)
    except ForwarderError as error:
        page = render_form(report_error(read_values(form), error), stored)
        page.status_code = error.status
        return page
    return go_to_list(saved=created.remote.name)


def read_body(form: MultiDict[str, str]) -> Json:
    """Return the body of ``/api/create`` that the form describes.

    Raises InvalidRequest for a text that cannot be parsed; `ModelRegistration` checks the rest.
    """
    texts = {
        name: text for name in (*TEXT_FIELDS, "remote_api_key") if (text := get_text(form, name))
    }
    if "remote_host" not in texts and texts.get("remote_type") == "openai":
        del texts["remote_type"]  # the form always sends one
    parameters = {
        name: parse_value(text)
        for name in MODEL_PARAMETERS
        if (text := get_text(form, f"parameters.{name}"))
    }
    info: Json = {"capabilities": form.getlist("info.capabilities") or None}
    if length := get_text(form, "info.context_length"):
        info["context_length"] = parse_value(length)
    return {
        **texts,
        **{name: parse_pairs(get_text(form, name), name) for name in PAIR_SEPARATORS},
        "quirks": parse_object(get_text(form, "quirks"), "quirks"),
        "parameters": parameters,
        "info": info,
        "verify": "verify" in form,
    }


def get_text(form: MultiDict[str, str], name: str) -> str:
    """Return a field without space at its ends; browsers end lines with CR and LF."""
    return form.get(name, "").replace("\r\n", "\n").strip()


def parse_value(text: str) -> Any:
    """Return the JSON value of a text, or the text itself if it is not JSON."""
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def parse_object(text: str, param: str) -> Any:
    try:
        return orjson.loads(text) if text else None
    except ValueError:
        raise InvalidRequest(
            f"Invalid value for '{param}': it must be a JSON object.", param=param
        ) from None


def parse_pairs(text: str, param: str) -> dict[str, str]:
    """Parse ``name: value`` or ``name=value`` lines. Errors do not quote them: they are secret."""
    separator, pairs = PAIR_SEPARATORS[param], {}
    for number, line in enumerate(text.split("\n"), 1):
        name, found, value = line.partition(separator)
        if found and name.strip():
            pairs[name.strip()] = value.strip()
        elif line.strip():
            raise InvalidRequest(
                f"Line {number} of '{param}' must be a name, '{separator}' and a value.",
                param=param,
            )
    return pairs


def list_kept_secrets(form: MultiDict[str, str]) -> list[str]:
    """Return the secrets that are neither entered again nor removed."""
    return [
        param
        for param in SECRET_FIELDS
        if not get_text(form, param) and f"remove_{param}" not in form
    ]


# -- the form -------------------------------------------------------------------------------------


def fill_form(stored: RegisteredModel) -> ModelForm:
    """Return the form with the values of a registered model."""
    parameters = {
        f"parameters.{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in stored.parameters.items()
    }
    return ModelForm(
        {
            "model": strip_tag(stored.name),
            "from": stored.model,
            "remote_host": stored.host,
            "remote_type": stored.kind,
            "provider": stored.provider,
            "system": stored.system,
            "license": stored.license,
            "quirks": json.dumps(serialize_changes(stored.quirks)) if stored.quirks else "",
            "info.context_length": stored.context_length,
            "info.capabilities": stored.capabilities or (),
            "verify": True,
            **parameters,
        }
    )


def read_values(form: MultiDict[str, str]) -> Json:
    """Return the entered values, to show them again, without secrets."""
    values: Json = {name: get_text(form, name) for name in OWN_FIELDS - SECRET_FIELDS.keys()}
    values["info.capabilities"] = form.getlist("info.capabilities")
    flags = ("verify", *(f"remove_{param}" for param in SECRET_FIELDS))
    return values | {name: name in form for name in flags}


def report_error(values: Json, error: ForwarderError) -> ModelForm:
    """Return the form with an error at its field, or above the form."""
    param = error.param or ""
    param = "model" if param == "name" else param
    return ModelForm(values, error.message, param if param in OWN_FIELDS else "")


def render_form(form: ModelForm, stored: RegisteredModel | None, **more: Any) -> Response:
    """Render the page of a model, or only its form for htmx."""
    is_part = is_part_request()
    return render_page(
        "model_form.html" if is_part else "model.html",
        form=form,
        stored=stored,
        row=describe_model(stored) if stored and not is_part else None,
        header_names=sorted(stored.headers) if stored else [],
        query_names=sorted(stored.query) if stored else [],
        types=tuple(REMOTE_TYPES),
        profiles=sorted(PROFILES),
        capabilities=CAPABILITIES,
        parameters=MODEL_PARAMETERS,
        action=url_for("console.change_model", name=stored.name)
        if stored
        else url_for("console.create_model"),
        **more,
    )


def go_to_list(**arguments: Any) -> Response | Redirect:
    """Go to the list of models. htmx needs a header for that instead of a redirect."""
    place = url_for("console.list_upstreams", _anchor="models", **arguments)
    if is_part_request():
        return Response(status=204, headers={"HX-Redirect": place})
    return redirect(place, 303)


def require_new_name(name: str, param: str) -> None:
    """Raise InvalidRequest if there is a registered model of this name."""
    if get_services().registry.find(name) is not None:
        raise InvalidRequest(
            f"There is a registered model '{shorten_value(name)}' already.", param=param
        )


def find_model(name: str) -> RegisteredModel:
    """Return a registered model; raises NotFound."""
    remote = get_services().registry.find(name)
    if remote is None:
        raise make_not_found(name)
    return remote


# -- checking, copying and deleting ---------------------------------------------------------------


@blueprint.post("/models/check/<path:name>")
def check_model(name: str) -> Response | Redirect:
    """Send a model's remote a small request; return its row for htmx."""
    services = get_services()
    remote = find_model(name).require_key()
    target = services.health_targets.make_target(remote)
    if target is not None:
        services.health.record_result(target, services.registration.probe_registered(remote))
    if is_part_request():
        return render_page("model_row.html", row=describe_model(remote))
    return go_to_list()


@blueprint.post("/models/copy/<path:name>")
def copy_model(name: str) -> Response | Redirect:
    """Register a model under a second name."""
    stored = find_model(name)
    destination = read_form_field("destination")
    try:
        require_new_name(destination, "destination")
        copied = get_services().registration.copy(stored.name, destination)
    except ForwarderError as error:
        page = render_form(
            fill_form(stored), stored, destination=destination, copy_error=error.message
        )
        page.status_code = error.status
        return page
    return go_to_list(saved=copied.name)


@blueprint.get("/models/delete/<path:name>")
def confirm_deletion(name: str) -> Response:
    """Ask for confirmation before a model is deleted."""
    return render_page("model_delete.html", row=describe_model(find_model(name)))


@blueprint.post("/models/delete/<path:name>")
def delete_model(name: str) -> Response | Redirect:
    """Delete a registered model."""
    get_services().registration.delete(find_model(name).name)
    return go_to_list(deleted="yes")

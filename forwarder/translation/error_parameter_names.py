"""Renames the upstream's parameters to the client's in errors and in the loss report.

In an upstream error only ``param`` is renamed; the upstream's message stays as it is.  The one
exception is an unknown model: Ollama clients pull a model when the message says "not found".
Errors of the forwarder's own middleware between translation and upstream are renamed in the message
too.  A path inside an upstream parameter is shortened to the client's parameter: the translation
built that value, so the path means nothing to the client.
"""

from __future__ import annotations

import re

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import ClientError, UpstreamRefused, shorten_value
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.registry import PROTOCOLS

_PATH_STEP = re.compile(r"[^.\[]+")


def with_client_parameter_names(handler: Handler, client: str) -> Handler:
    """Wrap a translated handler so that errors name parameters of the ``client`` protocol."""

    def handle_request(request: Json) -> EventStream:
        try:
            return handler(request)
        except UpstreamRefused as refusal:
            unknown_model = refusal.kind is ErrorKind.MODEL_NOT_FOUND
            if unknown_model and PROTOCOLS[client].rewords_unknown_model:
                raise reword_unknown_model(refusal, request) from refusal
            if refusal.param:
                refusal.param = map_to_client_parameter(refusal.param, client, request)
            raise

    return handle_request


def reword_unknown_model(refusal: UpstreamRefused, request: Json) -> UpstreamRefused:
    """Return the error with Ollama's wording and the client's name for the model."""
    message = f"model '{shorten_value(request.get('model'))}' not found: {refusal.message}"
    error = {"message": message, "param": "model", "code": "model_not_found"}
    return UpstreamRefused(404, error, refusal.headers)


def call_carrier(
    handler: Handler, request: Json, client: str, client_request: Json, loss_report: LossReport
) -> EventStream:
    """Call the handler of a carrier protocol (see `Carrier`) with the translated ``request``.

    Errors and losses then name the parameters of the ``client_request``.
    """
    try:
        return handler(request)
    except ClientError as error:
        param = error.param
        if param:
            error.param = map_to_client_parameter(param, client, client_request)
            _, _, field = param.rpartition(".")
            place = f"'{error.param}'"
            if field != param and error.param != param:
                place += f" ({field})"
            error.message = error.message.replace(f"'{param}'", place)
        raise
    finally:
        rename_losses(loss_report, client, client_request)


def map_to_client_parameter(param: str, client: str, request: Json) -> str:
    """Return the parameter of the client's ``request`` that became the upstream's ``param``.

    Returns ``param`` unchanged if the request has no such parameter.
    """
    names = PROTOCOLS[client].parameter_names
    steps = _PATH_STEP.findall(param)
    known = names.get(".".join(steps[:2])) or names.get(steps[0] if steps else "")
    if not known:
        return param
    sent = (name for name in known if request.get(name.partition(".")[0]) is not None)
    return next(sent, param)


def rename_losses(loss_report: LossReport, client: str, request: Json) -> None:
    """Rename the losses that inner translations reported to the ``client`` protocol's names."""
    for name, reason in list(loss_report.losses.items()):
        known = PROTOCOLS[client].parameter_names.get(name)
        if known:
            del loss_report.losses[name]
            loss_report.note(map_to_client_parameter(name, client, request), reason)

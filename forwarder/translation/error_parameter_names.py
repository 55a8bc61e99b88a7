"""Renames the upstream's parameters to the client's in errors and in the loss report.

The table is ``parameter_names`` of the client's protocol. Each translation renames what comes from
below it: errors of stages and providers, and errors of the upstream, also those in its stream.

In an upstream error only ``param`` is renamed; the upstream's message stays as it is.  The one
exception is an unknown model: Ollama clients pull a model when the message says "not found".
Errors of the forwarder's own middleware between translation and upstream are renamed in the message
too.  A path that is not in the table is shortened to the client's parameter: the translation built
that value, so the path means nothing to the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import ClientError, UpstreamRefused, shorten_value
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.protocols.registry import PROTOCOLS

_STEP_START = re.compile(r"[.\[]")

_MAX_NAME_STEPS = 8
"""Steps of a path that are compared with names; an upstream may send a path of any length."""


def rename_parameters(
    open_stream: Callable[[], EventStream], client: str, request: Json, loss_report: LossReport
) -> EventStream:
    """Return the stream of ``open_stream``, which calls the upstream.

    Errors and losses, also those while the stream is read, name parameters of the ``client``
    protocol that are in its ``request``.
    """

    def read_stream() -> EventStream:
        with client_parameter_names(client, request, loss_report):
            yield from stream

    with client_parameter_names(client, request, loss_report):
        stream = open_stream()
    return read_stream()


@contextmanager
def client_parameter_names(client: str, request: Json, loss_report: LossReport) -> Iterator[None]:
    """Rename parameters in the errors of the ``with`` block and in the losses that it reports."""
    own_losses = frozenset(loss_report.losses)
    try:
        yield
    except UpstreamRefused as refusal:
        unknown_model = refusal.kind is ErrorKind.MODEL_NOT_FOUND
        if unknown_model and PROTOCOLS[client].rewords_unknown_model:
            raise reword_unknown_model(refusal, request) from refusal
        if refusal.param:
            refusal.param, _ = find_client_parameter(refusal.param, client, request)
        raise
    except ClientError as error:
        if error.param:
            rename_client_error(error, error.param, client, request)
        raise
    finally:
        rename_losses(loss_report, own_losses, client, request)


def reword_unknown_model(refusal: UpstreamRefused, request: Json) -> UpstreamRefused:
    """Return the error with Ollama's wording and the client's name for the model."""
    message = f"model '{shorten_value(request.get('model'))}' not found: {refusal.message}"
    error = {"message": message, "param": "model", "code": "model_not_found"}
    return UpstreamRefused(404, error, refusal.headers)


def rename_client_error(error: ClientError, param: str, client: str, request: Json) -> None:
    """Rename ``param`` in an error of the forwarder; the message keeps the name of the field."""
    error.param, rest = find_client_parameter(param, client, request)
    _, dot, field = rest.rpartition(".")
    place = f"'{error.param}' ({field})" if dot else f"'{error.param}'"
    error.message = error.message.replace(f"'{param}'", place)


def find_client_parameter(param: str, client: str, request: Json) -> tuple[str, str]:
    """Return the parameter of the client's ``request`` that became ``param``, and the path in it.

    ``param`` is the upstream's. If the request has no such parameter, the result is ``param``
    itself and an empty path.
    """
    names = PROTOCOLS[client].parameter_names
    starts = islice(_STEP_START.finditer(param), _MAX_NAME_STEPS)
    ends = [match.start() for match in starts]
    for end in (len(param), *reversed(ends)):
        for name in names.get(param[:end], ()):
            if has_parameter(request, name):
                return name, param[end:]
    return param, ""


def has_parameter(request: Json, name: str) -> bool:
    """Return whether a request has a parameter, or the field of an object that is one."""
    value: Any = request
    for step in name.split("."):
        if not isinstance(value, dict):
            return True  # the name is that of a field of messages or items
        value = value.get(step)
        if value is None:
            return False
    return True


def rename_losses(
    loss_report: LossReport, own_losses: Collection[str], client: str, request: Json
) -> None:
    """Rename losses to the ``client`` protocol's names, except ``own_losses``, which have them.

    The path in a parameter is kept: it says what is lost of the parameter.
    """
    for name, reason in list(loss_report.losses.items()):
        if name in own_losses:
            continue
        client_name = "".join(find_client_parameter(name, client, request))
        if client_name != name:
            del loss_report.losses[name]
            loss_report.note(client_name, reason)

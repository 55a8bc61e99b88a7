"""Default parameters and the system prompt of a registered model.

The defaults fill parameters that the client left out.  Those with `is_early` go into the client's
request, so that the emulating middleware sees them.  The others, for which the client's API may
have no name, go into the upstream request.  Defaults that the upstream does not take are left out
without an error or a loss report, because the client did not send them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from forwarder.protocols.types import MIN_OUTPUT_TOKENS


def make_number_check(low: float, high: float) -> Callable[[Any], bool]:
    def is_accepted(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return is_accepted


def make_count_check(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= 2**31


def is_stop_list(value: Any) -> bool:
    stops = value if isinstance(value, list) else [value]
    return 0 < len(stops) <= 16 and all(isinstance(each, str) and each for each in stops)


class ModelParameter(NamedTuple):
    """One of Ollama's parameters.

    ``chat`` and ``responses`` name its request fields in these protocols: the default goes into
    the first one unless the client set any of them.  ``is_early`` parameters go into the client's
    request, others into the upstream request.  ``extension_names`` are the names under which some
    upstreams take it although their protocol lacks it.
    """

    accepted_values: str
    accepts: Callable[[Any], bool]
    chat: tuple[str, ...] = ()
    responses: tuple[str, ...] = ()
    is_early: bool = False
    extension_names: tuple[str, ...] = ()


MODEL_PARAMETERS: Mapping[str, ModelParameter] = {
    "temperature": ModelParameter(
        "a number from 0 to 2", make_number_check(0, 2), ("temperature",), ("temperature",), True
    ),
    "top_p": ModelParameter(
        "a number from 0 to 1", make_number_check(0, 1), ("top_p",), ("top_p",), True
    ),
    "num_predict": ModelParameter(
        "a whole number from 1, or -1 for no limit",
        lambda value: value in (-1, -2) or make_count_check(1)(value),
        ("max_tokens", "max_completion_tokens"),
        ("max_output_tokens",),
        True,
    ),
    "stop": ModelParameter("a text or an array of texts", is_stop_list, ("stop",), (), True),
    "seed": ModelParameter(
        "a whole number", lambda value: type(value) is int, ("seed",), extension_names=("seed",)
    ),
    "frequency_penalty": ModelParameter(
        "a number from -2 to 2",
        make_number_check(-2, 2),
        ("frequency_penalty",),
        extension_names=("frequency_penalty",),
    ),
    "presence_penalty": ModelParameter(
        "a number from -2 to 2",
        make_number_check(-2, 2),
        ("presence_penalty",),
        extension_names=("presence_penalty",),
    ),
    "repeat_penalty": ModelParameter(
        "a number from 0",
        make_number_check(0, 100),
        extension_names=("repetition_penalty", "repeat_penalty"),
    ),
    "top_k": ModelParameter(
        "a whole number from 0", make_count_check(0), extension_names=("top_k",)
    ),
    "min_p": ModelParameter(
        "a number from 0 to 1", make_number_check(0, 1), extension_names=("min_p",)
    ),
    "num_ctx": ModelParameter("a whole number from 1", make_count_check(1)),
}
"""``num_ctx`` only sets the context window that clients see; no provider takes it in requests."""


def validate_model_parameters(parameters: Mapping[str, Any]) -> Json:
    """Return the parameters that are not null.

    Raises InvalidRequest for an unknown name or an invalid value.
    """
    for name, value in parameters.items():
        parameter = MODEL_PARAMETERS.get(name)
        if parameter is None:
            known = ", ".join(MODEL_PARAMETERS)
            raise make_parameter_error(name, f"remote models take only {known}")
        if value is not None and not parameter.accepts(value):
            raise make_parameter_error(name, f"it must be {parameter.accepted_values}")
    return {name: value for name, value in parameters.items() if value is not None}


def make_parameter_error(name: str, why: str) -> InvalidRequest:
    path = f"parameters.{name}"
    return InvalidRequest(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")


FieldNames = Collection[str]
"""Names of fields in upstream requests."""


@dataclass(frozen=True)
class ModelDefaults:
    """The defaults of a model; ``parameters`` has Ollama's names (`MODEL_PARAMETERS`)."""

    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    system: str | None = None

    def with_client_defaults(
        self, handler: Handler, client: str, drops: FieldNames = frozenset()
    ) -> Handler:
        """Wrap the handler of client requests: fill the early parameters except ``drops``."""
        if not self.parameters and not self.system:
            return handler
        fields = self._iter_fields(client, True, (), drops)
        return with_defaults(handler, client, fields, self.system)

    def with_upstream_defaults(
        self,
        handler: Handler,
        protocol: str,
        takes: FieldNames = frozenset(),
        drops: FieldNames = frozenset(),
    ) -> Handler:
        """Wrap the handler of upstream requests: fill all parameters except ``drops``.

        ``takes`` are the fields that this upstream takes beyond its protocol.
        """
        if not self.parameters and not self.system:
            return handler
        fields = self._iter_fields(protocol, False, takes, drops)
        return with_defaults(handler, protocol, fields, None)

    def _iter_fields(
        self, protocol: str, early: bool, takes: FieldNames, drops: FieldNames
    ) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Yield the request fields of each default, the one to write first, and its value."""
        for name, value in self.parameters.items():
            parameter = MODEL_PARAMETERS[name]
            own: tuple[str, ...] = getattr(parameter, protocol, ())
            names = own or tuple(each for each in parameter.extension_names if each in takes)
            if not names or names[0] in drops or (early and not parameter.is_early):
                continue
            if name == "num_predict" and value < 0:  # no limit
                continue
            if names == ("max_output_tokens",):
                value = max(value, MIN_OUTPUT_TOKENS)
            yield names, value


def with_defaults(
    handler: Handler,
    protocol: str,
    named_values: Iterable[tuple[tuple[str, ...], Any]],
    system: str | None,
) -> Handler:
    fields = list(named_values)
    if not fields and not system:
        return handler

    def handle_request(request: Json) -> EventStream:
        defaults = {
            names[0]: value
            for names, value in fields
            if all(request.get(name) is None for name in names)
        }
        request = {**request, **defaults}
        return handler(add_system_prompt(request, protocol, system) if system else request)

    return handle_request


NO_DEFAULTS = ModelDefaults()


def add_system_prompt(request: Json, protocol: str, system: str) -> Json:
    """Put a system prompt in front of the conversation unless the client sent one."""
    conversation = UPSTREAM_PROTOCOLS[protocol].conversation
    value = request.get(conversation.parameter)
    entries = value if isinstance(value, list) else []
    if any(isinstance(each, dict) and each.get("role") in _INSTRUCTION_ROLES for each in entries):
        return request
    if conversation.instructions is not None:
        has_own = bool(request.get(conversation.instructions))
        return request if has_own else {**request, conversation.instructions: system}
    if not isinstance(value, list):  # the translator reports the error
        return request
    return {**request, conversation.parameter: [{"role": "system", "content": system}, *value]}


_INSTRUCTION_ROLES = ("system", "developer")

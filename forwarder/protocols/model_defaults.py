"""What a registered model brings to each request: parameters and a system prompt.

They are laid into a request where the client gave nothing for the same thing: into the client's
own, so that what is made up for here is made up for with them as well, and into that for the
upstream, for what the client's API has no name for.  What the upstream does not take is left out:
the client has not asked for it, and is neither refused for it nor told of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Handler, Json

_MIN_OUTPUT_TOKENS = 16
"""The least ``max_output_tokens`` that the Responses API takes."""


def make_number_check(low: float, high: float) -> Callable[[Any], bool]:
    def is_accepted(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return is_accepted


def make_count_check(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= 2**31


def is_stop_list(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return 0 < len(listed) <= 16 and all(isinstance(each, str) and each for each in listed)


class ModelParameter(NamedTuple):
    """One of Ollama's parameters.

    ``chat`` and ``responses`` are the fields of a request that mean it: the first is written, any
    says that the client has chosen.  ``early`` ones are laid into the client's request already.
    ``extension_names`` is what upstreams call it that take it beyond their protocol.
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
"""``num_ctx`` is told to clients as the context window; no provider takes it with a request."""


def validate_model_parameters(parameters: Mapping[str, Any]) -> Json:
    """Those parameters that say something; raises InvalidRequest for what cannot be meant."""
    for name, value in parameters.items():
        parameter = MODEL_PARAMETERS.get(name)
        if parameter is None:
            known = ", ".join(MODEL_PARAMETERS)
            raise make_parameter_error(name, f"it means nothing for a remote model; {known} do")
        if value is not None and not parameter.accepts(value):
            raise make_parameter_error(name, f"it must be {parameter.accepted_values}")
    return {name: value for name, value in parameters.items() if value is not None}


def make_parameter_error(name: str, why: str) -> InvalidRequest:
    path = f"parameters.{name}"
    return InvalidRequest(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")


FieldNames = Collection[str]
"""Of fields in an upstream's requests."""


@dataclass(frozen=True)
class ModelDefaults:
    """What goes into a request that has nothing for it; ``parameters`` are Ollama's."""

    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    system: str | None = None

    def with_client_defaults(
        self, call: Handler, client: str, drops: FieldNames = frozenset()
    ) -> Handler:
        """Wrap the call that takes a client's requests, but for what the upstream ``drops``."""
        return with_defaults(call, client, self._iter_fields(client, True, (), drops), self.system)

    def with_upstream_defaults(
        self,
        call: Handler,
        protocol: str,
        takes: FieldNames = frozenset(),
        drops: FieldNames = frozenset(),
    ) -> Handler:
        """Wrap the upstream's call, with what it ``accepted_values`` beyond its protocol too."""
        return with_defaults(call, protocol, self._iter_fields(protocol, False, takes, drops), None)

    def _iter_fields(
        self, protocol: str, early: bool, takes: FieldNames, drops: FieldNames
    ) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The names of each parameter in requests, of which the first is written, and its value."""
        for name, value in self.parameters.items():
            parameter = MODEL_PARAMETERS[name]
            own: tuple[str, ...] = getattr(parameter, protocol, ())
            names = own or tuple(each for each in parameter.extension_names if each in takes)
            if not names or names[0] in drops or (early and not parameter.is_early):
                continue
            if not _is_no_limit(name, value):
                yield (
                    names,
                    max(value, _MIN_OUTPUT_TOKENS) if names == _OUTPUT_LIMIT_NAMES else value,
                )


def with_defaults(
    call: Handler,
    protocol: str,
    named: Iterable[tuple[tuple[str, ...], Any]],
    system: str | None,
) -> Handler:
    fields = list(named)
    if not fields and not system:
        return call

    def handle_request(request: Json) -> EventStream:
        given = {
            names[0]: value
            for names, value in fields
            if all(request.get(name) is None for name in names)
        }
        request = {**request, **given}
        return call(add_system_prompt(request, protocol, system) if system else request)

    return handle_request


NO_DEFAULTS = ModelDefaults()
_OUTPUT_LIMIT_NAMES = ("max_output_tokens",)


def _is_no_limit(name: str, value: Any) -> bool:
    return name == "num_predict" and value < 0


def add_system_prompt(request: Json, protocol: str, system: str) -> Json:
    """The request, with the system prompt in front unless the client sent one."""
    where = "messages" if protocol == "chat" else "input"
    said = request.get(where)
    listed = said if isinstance(said, list) else []
    if any(isinstance(each, dict) and each.get("role") in _INSTRUCTION_ROLES for each in listed):
        return request
    if protocol == "chat":
        if not isinstance(said, list):  # the translator says what is wrong with it
            return request
        return {**request, "messages": [{"role": "system", "content": system}, *said]}
    return request if request.get("instructions") else {**request, "instructions": system}


_INSTRUCTION_ROLES = ("system", "developer")

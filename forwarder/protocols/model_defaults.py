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
from forwarder.core.types import Call, Json, Stream

_FLOOR = 16
"""The least ``max_output_tokens`` that the Responses API takes."""


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return accepts


def _is_count(low: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= 2**31


def _are_stops(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return 0 < len(listed) <= 16 and all(isinstance(each, str) and each for each in listed)


class Parameter(NamedTuple):
    """One of Ollama's parameters.

    ``chat`` and ``responses`` are the fields of a request that mean it: the first is written, any
    says that the client has chosen.  ``early`` ones are laid into the client's request already.
    ``offered`` is what upstreams call it that take it beyond their protocol.
    """

    takes: str
    accepts: Callable[[Any], bool]
    chat: tuple[str, ...] = ()
    responses: tuple[str, ...] = ()
    early: bool = False
    offered: tuple[str, ...] = ()


PARAMETERS: Mapping[str, Parameter] = {
    "temperature": Parameter(
        "a number from 0 to 2", _is_number(0, 2), ("temperature",), ("temperature",), True
    ),
    "top_p": Parameter("a number from 0 to 1", _is_number(0, 1), ("top_p",), ("top_p",), True),
    "num_predict": Parameter(
        "a whole number from 1, or -1 for no limit",
        lambda value: value in (-1, -2) or _is_count(1)(value),
        ("max_tokens", "max_completion_tokens"),
        ("max_output_tokens",),
        True,
    ),
    "stop": Parameter("a text or an array of texts", _are_stops, ("stop",), (), True),
    "seed": Parameter(
        "a whole number", lambda value: type(value) is int, ("seed",), offered=("seed",)
    ),
    "frequency_penalty": Parameter(
        "a number from -2 to 2",
        _is_number(-2, 2),
        ("frequency_penalty",),
        offered=("frequency_penalty",),
    ),
    "presence_penalty": Parameter(
        "a number from -2 to 2",
        _is_number(-2, 2),
        ("presence_penalty",),
        offered=("presence_penalty",),
    ),
    "repeat_penalty": Parameter(
        "a number from 0", _is_number(0, 100), offered=("repetition_penalty", "repeat_penalty")
    ),
    "top_k": Parameter("a whole number from 0", _is_count(0), offered=("top_k",)),
    "min_p": Parameter("a number from 0 to 1", _is_number(0, 1), offered=("min_p",)),
    "num_ctx": Parameter("a whole number from 1", _is_count(1)),
}
"""``num_ctx`` is told to clients as the context window; no provider takes it with a request."""


def checked(parameters: Mapping[str, Any]) -> Json:
    """Those parameters that say something; raises InvalidRequest for what cannot be meant."""
    for name, value in parameters.items():
        parameter = PARAMETERS.get(name)
        if parameter is None:
            known = ", ".join(PARAMETERS)
            raise _invalid(name, f"it means nothing for a remote model; {known} do")
        if value is not None and not parameter.accepts(value):
            raise _invalid(name, f"it must be {parameter.takes}")
    return {name: value for name, value in parameters.items() if value is not None}


def _invalid(name: str, why: str) -> InvalidRequest:
    path = f"parameters.{name}"
    return InvalidRequest(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")


Names = Collection[str]
"""Of fields in an upstream's requests."""


@dataclass(frozen=True)
class Defaults:
    """What goes into a request that has nothing for it; ``parameters`` are Ollama's."""

    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    system: str | None = None

    def early(self, call: Call, client: str, drops: Names = frozenset()) -> Call:
        """Wrap the call that takes a client's requests, but for what the upstream ``drops``."""
        return _laid(call, client, self._fields(client, True, (), drops), self.system)

    def late(
        self, call: Call, protocol: str, takes: Names = frozenset(), drops: Names = frozenset()
    ) -> Call:
        """Wrap the upstream's call, with what it ``takes`` beyond its protocol too."""
        return _laid(call, protocol, self._fields(protocol, False, takes, drops), None)

    def _fields(
        self, protocol: str, early: bool, takes: Names, drops: Names
    ) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The names of each parameter in requests, of which the first is written, and its value."""
        for name, value in self.parameters.items():
            parameter = PARAMETERS[name]
            own: tuple[str, ...] = getattr(parameter, protocol, ())
            names = own or tuple(each for each in parameter.offered if each in takes)
            if not names or names[0] in drops or (early and not parameter.early):
                continue
            if not _is_no_limit(name, value):
                yield names, max(value, _FLOOR) if names == _LIMITED else value


def _laid(
    call: Call,
    protocol: str,
    named: Iterable[tuple[tuple[str, ...], Any]],
    system: str | None,
) -> Call:
    fields = list(named)
    if not fields and not system:
        return call

    def call_with_defaults(request: Json) -> Stream:
        given = {
            names[0]: value
            for names, value in fields
            if all(request.get(name) is None for name in names)
        }
        request = {**request, **given}
        return call(_instructed(request, protocol, system) if system else request)

    return call_with_defaults


NOTHING = Defaults()
_LIMITED = ("max_output_tokens",)


def _is_no_limit(name: str, value: Any) -> bool:
    return name == "num_predict" and value < 0


def _instructed(request: Json, protocol: str, system: str) -> Json:
    """The request, with the system prompt in front unless the client sent one."""
    where = "messages" if protocol == "chat" else "input"
    said = request.get(where)
    listed = said if isinstance(said, list) else []
    if any(isinstance(each, dict) and each.get("role") in _INSTRUCTING for each in listed):
        return request
    if protocol == "chat":
        if not isinstance(said, list):  # the translator says what is wrong with it
            return request
        return {**request, "messages": [{"role": "system", "content": system}, *said]}
    return request if request.get("instructions") else {**request, "instructions": system}


_INSTRUCTING = ("system", "developer")

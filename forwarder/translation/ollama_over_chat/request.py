"""An Ollama request -> a Chat request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten
from forwarder.core.translation_context import Terms
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, DICT, STR, choose, expect, optional, require
from forwarder.protocols.ollama_parameters import flat
from forwarder.protocols.parameters import settle
from forwarder.translation.ollama_over_chat.forms import CHAT, Form

_EFFORTS = ("low", "medium", "high", "max")
_ZERO = re.compile(r"0+(\.0*)?(ns|us|µs|ms|s|m|h)?")
_MOST_LOGPROBS = 20

_SPELLINGS = {"options.repeat_penalty": ("repeat_penalty", "repetition_penalty")}
"""An option -> what upstreams call it; others are called what they are."""


class Prepared(NamedTuple):
    """A translated request.

    ``chat`` is empty when nothing is asked, and then ``instead`` says what was wanted of the
    model: ``load`` or ``unload``.  ``model`` is the client's name for it, ``began`` the clock when
    the request came; ``thinks`` is false when the client wants no thoughts.
    """

    chat: Json
    form: Form
    model: str
    began: int
    instead: str = ""
    thinks: bool = True
    logprobs: bool = False


def translate_request(request: Json, terms: Terms, form: Form = CHAT) -> Prepared:
    """Give the Chat request for an Ollama request.

    Raises InvalidRequest for what is malformed and Unsupported for what cannot be carried.
    """
    began = terms.mint.clock()
    model = require(request, "model", STR, "model")
    streamed = bool(optional(request, "stream", BOOL, "stream"))
    out: Json = {"stream": streamed}
    if streamed:
        out["stream_options"] = {"include_usage": True}
    given = flat(request)
    taken = _taken(given, terms.takes)
    for name, value in settle(given, form.fates, terms.ledger, taken):
        mapper = _MAPPED.get(name)
        if mapper is None:
            out[taken.get(name, name)] = value
        else:
            mapper(value, out)
    logprobs = _logprobs(request, out)
    messages = form.messages(request, terms.ledger)
    if not messages:
        instead = "unload" if _is_zero(request.get("keep_alive")) else "load"
        return Prepared({}, form, model, began, instead)
    out["messages"] = messages
    thinks = request.get("think") is not False
    return Prepared(out, form, model, began, thinks=thinks, logprobs=logprobs)


def _taken(given: Iterable[str], takes: Iterable[str]) -> dict[str, str]:
    """Of these parameters those that this upstream takes beyond its protocol, as it calls them."""
    return {
        name: spelling
        for name in given
        for spelling in _SPELLINGS.get(name, (name.removeprefix("options."),))
        if spelling in takes
    }


def _is_zero(keep_alive: Any) -> bool:
    if isinstance(keep_alive, str):
        return _ZERO.fullmatch(keep_alive) is not None
    return keep_alive is not None and keep_alive == 0


def _logprobs(request: Json, out: Json) -> bool:
    """Alternatives without log probabilities ask for nothing."""
    most = request.get("top_logprobs") or 0
    if not 0 <= most <= _MOST_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs must be between 0 and {_MOST_LOGPROBS}", param="top_logprobs"
        )
    if not out.pop("logprobs", False):
        return False
    out["logprobs"] = True
    if most:
        out["top_logprobs"] = most
    return True


# -- parameters that change their name, shape or place ------------------------------------------


def _nothing(value: Any, out: Json) -> None:
    """Read elsewhere."""


def _format(value: str | Json, out: Json) -> None:
    if isinstance(value, dict):
        schema = {"name": "answer", "schema": value}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif choose(value, ("json", ""), "format"):
        out["response_format"] = {"type": "json_object"}


def _think(value: bool | str, out: Json) -> None:
    if isinstance(value, str):
        out["reasoning_effort"] = choose(value, _EFFORTS, "think")
    else:
        out["reasoning_effort"] = "medium" if value else "none"


def _limit(value: float, out: Json) -> None:
    if value > 0:
        out["max_completion_tokens"] = _whole(value, "options.num_predict")


def _seed(value: float, out: Json) -> None:
    out["seed"] = _whole(value, "options.seed")


def _whole(value: float, path: str) -> int:
    """A number that clients may write with a point; what is too large for JSON cannot be sent."""
    if abs(value) >= 2**63:
        raise InvalidRequest(
            f"Invalid value for '{path}': it is too large.", param=path, code="invalid_value"
        )
    return int(value)


def _tools(value: list[Any], out: Json) -> None:
    if value:
        out["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(value)]


_OF_A_FUNCTION = ("name", "description", "parameters", "strict")


def _tool(given: Any, path: str) -> Json:
    tool = expect(given, DICT, path)
    kind = optional(tool, "type", STR, f"{path}.type") or "function"
    if kind != "function":
        raise Unsupported(
            f"'{path}': a tool has to be a function, not '{shorten(kind)}'.", param=f"{path}.type"
        )
    function = require(tool, "function", DICT, f"{path}.function")
    require(function, "name", STR, f"{path}.function.name")
    optional(function, "description", STR, f"{path}.function.description")
    optional(function, "parameters", DICT, f"{path}.function.parameters")
    kept = {name: function[name] for name in _OF_A_FUNCTION if function.get(name) is not None}
    return {"type": "function", "function": kept}


def _same(name: str) -> Callable[[Any, Json], None]:
    return lambda value, out: out.update({name: value})


_BESIDE = ("temperature", "top_p", "presence_penalty", "frequency_penalty")

_MAPPED: dict[str, Callable[[Any, Json], None]] = {
    "messages": _nothing,
    "prompt": _nothing,
    "system": _nothing,
    "images": _nothing,
    "top_logprobs": _nothing,
    "format": _format,
    "think": _think,
    "tools": _tools,
    "options.num_predict": _limit,
    "options.seed": _seed,
    "options.stop": lambda value, out: out.update(stop=value) if value else None,
    **{f"options.{name}": _same(name) for name in _BESIDE},
}

"""Ollama request -> Chat request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols.ollama import flatten_options
from forwarder.protocols.parameters import validate_parameters
from forwarder.translation.ollama_over_chat.endpoints import CHAT_ENDPOINT, OllamaEndpoint

_REASONING_EFFORTS = ("low", "medium", "high", "max")
_ZERO_DURATION = re.compile(r"0+(\.0*)?(ns|us|µs|ms|s|m|h)?")
_MAX_TOP_LOGPROBS = 20

_EXTENSION_NAMES = {"options.repeat_penalty": ("repeat_penalty", "repetition_penalty")}
"""An option -> the names that upstreams have for it.  All other options keep their name."""


class TranslatedOllamaRequest(NamedTuple):
    """The Chat request for an Ollama request, and the facts that its answer needs.

    A request without messages or prompt only loads or unloads the model: then
    ``upstream_request`` is empty and ``load_action`` is ``load`` or ``unload``.  ``model`` is the
    client's model name.  ``started_at`` is the monotonic clock in nanoseconds when the request
    arrived.
    ``wants_reasoning`` is false if the client asked for no thinking.
    """

    upstream_request: Json
    endpoint: OllamaEndpoint
    model: str
    started_at: int
    load_action: str = ""
    wants_reasoning: bool = True
    wants_logprobs: bool = False


def translate_request(
    request: Json, context: TranslationContext, endpoint: OllamaEndpoint = CHAT_ENDPOINT
) -> TranslatedOllamaRequest:
    """Translate an Ollama request for ``endpoint`` to a Chat request.

    Raises InvalidRequest for malformed parameters, Unsupported for those that Chat cannot carry.
    """
    started_at = context.id_source.monotonic_ns()
    model = require_field(request, "model", STR, "model")
    streamed = bool(read_field(request, "stream", BOOL, "stream"))
    out: Json = {"stream": streamed}
    if streamed:
        out["stream_options"] = {"include_usage": True}
    parameters = flatten_options(request)
    extensions = select_extensions(parameters, context.extensions)
    for name, value in validate_parameters(
        parameters, endpoint.parameters, context.loss_report, extensions
    ):
        mapper = _PARAMETER_MAPPERS.get(name)
        if mapper is None:
            out[extensions.get(name, name)] = value
        else:
            mapper(value, out)
    wants_logprobs = set_logprobs(request, out)
    messages = endpoint.read_messages(request, context.loss_report)
    if not messages:
        load_action = "unload" if is_zero_duration(request.get("keep_alive")) else "load"
        return TranslatedOllamaRequest({}, endpoint, model, started_at, load_action)
    out["messages"] = messages
    return TranslatedOllamaRequest(
        out,
        endpoint,
        model,
        started_at,
        wants_reasoning=request.get("think") is not False,
        wants_logprobs=wants_logprobs,
    )


def select_extensions(names: Iterable[str], extensions: Iterable[str]) -> dict[str, str]:
    """Return option -> the upstream's name, for ``names`` that it accepts beyond its protocol."""
    return {
        name: spelling
        for name in names
        for spelling in _EXTENSION_NAMES.get(name, (name.removeprefix("options."),))
        if spelling in extensions
    }


def is_zero_duration(keep_alive: Any) -> bool:
    if isinstance(keep_alive, str):
        return _ZERO_DURATION.fullmatch(keep_alive) is not None
    return keep_alive is not None and keep_alive == 0


def set_logprobs(request: Json, out: Json) -> bool:
    """Set the log probability parameters and return whether the client wants them.

    ``top_logprobs`` alone has no effect, as with Ollama.
    """
    top_logprobs = request.get("top_logprobs") or 0
    if not 0 <= top_logprobs <= _MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs must be between 0 and {_MAX_TOP_LOGPROBS}", param="top_logprobs"
        )
    if not out.pop("logprobs", False):
        return False
    out["logprobs"] = True
    if top_logprobs:
        out["top_logprobs"] = top_logprobs
    return True


# -- parameters that change their name, shape or place ------------------------------------------


def skip_parameter(value: Any, out: Json) -> None:
    """Do nothing: other functions read this parameter."""


def set_response_format(value: str | Json, out: Json) -> None:
    if isinstance(value, dict):
        schema = {"name": "answer", "schema": value}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif check_enum(value, ("json", ""), "format"):
        out["response_format"] = {"type": "json_object"}


def set_reasoning_effort(value: bool | str, out: Json) -> None:
    if isinstance(value, str):
        out["reasoning_effort"] = check_enum(value, _REASONING_EFFORTS, "think")
    else:
        out["reasoning_effort"] = "medium" if value else "none"


def set_token_limit(value: float, out: Json) -> None:
    if value > 0:
        out["max_completion_tokens"] = to_integer(value, "options.num_predict")


def set_seed(value: float, out: Json) -> None:
    out["seed"] = to_integer(value, "options.seed")


def to_integer(value: float, path: str) -> int:
    """Convert a number, which may be a float.  Raises InvalidRequest if it overflows 64 bits."""
    if abs(value) >= 2**63:
        raise InvalidRequest(
            f"Invalid value for '{path}': it is too large.", param=path, code="invalid_value"
        )
    return int(value)


def set_tools(value: list[Any], out: Json) -> None:
    if value:
        out["tools"] = [
            convert_tool(tool, f"tools[{i}]") for i, tool in enumerate(iter_paced(value))
        ]


_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")


def convert_tool(value: Any, path: str) -> Json:
    tool = check_type(value, DICT, path)
    kind = read_field(tool, "type", STR, f"{path}.type") or "function"
    if kind != "function":
        raise Unsupported(
            f"'{path}.type': tools must be of type 'function', not '{shorten_value(kind)}'.",
            param=f"{path}.type",
        )
    function = require_field(tool, "function", DICT, f"{path}.function")
    require_field(function, "name", STR, f"{path}.function.name")
    read_field(function, "description", STR, f"{path}.function.description")
    read_field(function, "parameters", DICT, f"{path}.function.parameters")
    fields = {name: function[name] for name in _FUNCTION_FIELDS if function.get(name) is not None}
    return {"type": "function", "function": fields}


def make_copier(name: str) -> Callable[[Any, Json], None]:
    return lambda value, out: out.update({name: value})


_COPIED_OPTIONS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")

_PARAMETER_MAPPERS: dict[str, Callable[[Any, Json], None]] = {
    "messages": skip_parameter,
    "prompt": skip_parameter,
    "system": skip_parameter,
    "images": skip_parameter,
    "top_logprobs": skip_parameter,
    "format": set_response_format,
    "think": set_reasoning_effort,
    "tools": set_tools,
    "options.num_predict": set_token_limit,
    "options.seed": set_seed,
    "options.stop": lambda value, out: out.update(stop=value) if value else None,
    **{f"options.{name}": make_copier(name) for name in _COPIED_OPTIONS},
}

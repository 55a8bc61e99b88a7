"""Renames the upstream's parameters to the client's in errors and in the loss report.

In an upstream error only ``param`` is renamed; the upstream's message stays as it is.  The one
exception is an unknown model: Ollama clients pull a model when the message says "not found".
A path inside an upstream parameter is cut to the client's parameter: the translation built that
value, so the path means nothing to the client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import UpstreamRefused, shorten_value
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json

_OLLAMA_NAMES: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "prompt"),
    "messages.reasoning_content": ("messages.thinking",),
    "tools": ("tools",),
    "response_format": ("format",),
    "reasoning_effort": ("think",),
    "max_completion_tokens": ("options.num_predict",),
    "max_tokens": ("options.num_predict",),
    "repeat_penalty": ("options.repeat_penalty",),
    "repetition_penalty": ("options.repeat_penalty",),
    **{
        name: (f"options.{name}",)
        for name in (
            "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty",
            "frequency_penalty", "repeat_last_n", "typical_p", "mirostat", "mirostat_tau",
            "mirostat_eta",
        )
    },
}  # fmt: skip

CLIENT_PARAMETER_NAMES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "responses": {
        "messages": ("input",),
        "tools": ("tools",),
        "tool_choice": ("tool_choice",),
        "max_completion_tokens": ("max_output_tokens",),
        "max_tokens": ("max_output_tokens",),
        "response_format": ("text.format",),
        "verbosity": ("text.verbosity",),
        "reasoning_effort": ("reasoning.effort",),
        "logprobs": ("include", "top_logprobs"),
        "web_search_options": ("tools",),
    },
    "chat": {
        "input": ("messages",),
        "tools": ("tools", "functions", "web_search_options", "modalities"),
        "tool_choice": ("tool_choice", "function_call"),
        "max_output_tokens": ("max_completion_tokens", "max_tokens"),
        "text.format": ("response_format",),
        "text.verbosity": ("verbosity",),
        "text": ("response_format", "verbosity"),
        "reasoning": ("reasoning_effort",),
        "include": ("logprobs",),
    },
    "ollama": _OLLAMA_NAMES,
    "ollama_generate": _OLLAMA_NAMES,
    "ollama_embed": {},
    "ollama_embeddings": {"input": ("prompt",)},
}
"""The client's protocol -> the upstream's parameter -> the client's possible names for it."""

_OLLAMA_PROTOCOLS = frozenset({"ollama", "ollama_generate", "ollama_embed", "ollama_embeddings"})

_PATH_STEP = re.compile(r"[^.\[]+")


def with_client_parameter_names(handler: Handler, client: str) -> Handler:
    """Wrap a translated handler so that errors name parameters of the ``client`` protocol."""

    def handle_request(request: Json) -> EventStream:
        try:
            return handler(request)
        except UpstreamRefused as refusal:
            if client in _OLLAMA_PROTOCOLS and refusal.kind is ErrorKind.MODEL_NOT_FOUND:
                raise model_not_found(refusal, request) from refusal
            if refusal.param:
                refusal.param = map_to_client_parameter(refusal.param, client, request)
            raise

    return handle_request


def model_not_found(refusal: UpstreamRefused, request: Json) -> UpstreamRefused:
    """Word the error as Ollama does, with the client's name for the model."""
    message = f"model '{shorten_value(request.get('model'))}' not found: {refusal.message}"
    error = {"message": message, "param": "model", "code": "model_not_found"}
    return UpstreamRefused(404, error, refusal.headers)


def map_to_client_parameter(param: str, client: str, request: Json) -> str:
    """Return the parameter of the client's ``request`` that became the upstream's ``param``.

    Returns ``param`` unchanged if the request has no such parameter.
    """
    names = CLIENT_PARAMETER_NAMES[client]
    steps = _PATH_STEP.findall(param)
    known = names.get(".".join(steps[:2])) or names.get(steps[0] if steps else "")
    if not known:
        return param
    sent = (name for name in known if request.get(name.partition(".")[0]) is not None)
    return next(sent, param)


def rename_losses(loss_report: LossReport, client: str, request: Json) -> None:
    """Rename the losses that inner translations reported to the ``client`` protocol's names."""
    for name, reason in list(loss_report.losses.items()):
        known = CLIENT_PARAMETER_NAMES[client].get(name)
        if known:
            del loss_report.losses[name]
            loss_report.note(map_to_client_parameter(name, client, request), reason)

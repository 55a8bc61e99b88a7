"""Ollama's API for clients: its parameters over Chat Completions and embeddings, and its streams.

Parameters that Ollama nests in ``options`` have names with that prefix: ``options.num_ctx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import EventStream, Json
from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR, read_field
from forwarder.protocols import framing
from forwarder.protocols.parameters import (
    Disposition,
    carry,
    drop,
    keep_local,
    offer,
    refuse,
    remap,
)
from forwarder.protocols.protocol import (
    Carrier,
    ClientApi,
    ClientProtocol,
    ErrorAnswer,
    Framing,
    Protocol,
)
from forwarder.protocols.stream_end import append_ollama_error

_RUNNER_REASON = "a setting of Ollama's runner; the upstream manages its models itself"
_SAMPLING_REASON = (
    "Chat Completions has no such parameter, and this upstream does not accept it either"
)
_TRUNCATION_REASON = "the upstream handles a conversation that is too long"
_RAW_PROMPT_REASON = "Chat Completions takes messages, not a raw prompt"
_IMAGE_SIZE_REASON = "Chat Completions has no parameters for images that a model makes"

_OPTION_PARAMETERS: dict[str, Disposition] = {
    "options.temperature": remap(NUMBER, "sent as the top-level parameter of this name"),
    "options.top_p": remap(NUMBER, "sent as the top-level parameter of this name"),
    "options.seed": remap(NUMBER, "sent as the top-level parameter of this name"),
    "options.presence_penalty": remap(NUMBER, "sent as the top-level parameter of this name"),
    "options.frequency_penalty": remap(NUMBER, "sent as the top-level parameter of this name"),
    "options.stop": remap((str, list), "sent as the top-level parameter of this name"),
    "options.num_predict": remap(NUMBER, "sent as `max_completion_tokens`; 0 or less: no limit"),
    "options.top_k": offer(NUMBER, _SAMPLING_REASON),
    "options.min_p": offer(NUMBER, _SAMPLING_REASON, 0),
    "options.repeat_penalty": offer(NUMBER, _SAMPLING_REASON, 1),
    "options.repeat_last_n": offer(NUMBER, _SAMPLING_REASON),
    "options.typical_p": offer(NUMBER, _SAMPLING_REASON, 1),
    "options.tfs_z": offer(NUMBER, _SAMPLING_REASON, 1),
    "options.mirostat": offer(NUMBER, _SAMPLING_REASON, 0),
    "options.mirostat_tau": offer(NUMBER, _SAMPLING_REASON),
    "options.mirostat_eta": offer(NUMBER, _SAMPLING_REASON),
    "options.penalize_newline": offer(BOOL, _SAMPLING_REASON),
    "options.num_keep": drop(ANY, _TRUNCATION_REASON),
    "options.num_ctx": drop(ANY, _RUNNER_REASON),
    "options.num_batch": drop(ANY, _RUNNER_REASON),
    "options.num_gpu": drop(ANY, _RUNNER_REASON),
    "options.main_gpu": drop(ANY, _RUNNER_REASON),
    "options.num_thread": drop(ANY, _RUNNER_REASON),
    "options.draft_num_predict": drop(ANY, _RUNNER_REASON),
    "options.numa": drop(ANY, _RUNNER_REASON),
    "options.low_vram": drop(ANY, _RUNNER_REASON),
    "options.f16_kv": drop(ANY, _RUNNER_REASON),
    "options.logits_all": drop(ANY, _RUNNER_REASON),
    "options.vocab_only": drop(ANY, _RUNNER_REASON),
    "options.use_mmap": drop(ANY, _RUNNER_REASON),
    "options.use_mlock": drop(ANY, _RUNNER_REASON),
    "options.embedding_only": drop(ANY, _RUNNER_REASON),
}

_KEEP_ALIVE_PARAMETER = keep_local(
    (int, float, str),
    f"{_RUNNER_REASON}; a request without messages is answered as loaded, with 0 as unloaded",
)

_COMMON_PARAMETERS: dict[str, Disposition] = {
    "model": carry(STR),
    "stream": keep_local(BOOL, "JSON lines, as Ollama sends them; the default is true"),
    "keep_alive": _KEEP_ALIVE_PARAMETER,
    "format": remap((str, dict), "sent as `response_format`"),
    "think": remap((bool, str), "sent as `reasoning_effort`: true is medium, false is none"),
    "logprobs": carry(BOOL),
    "top_logprobs": remap(INT, "sent with `logprobs`"),
    "truncate": drop(BOOL, _TRUNCATION_REASON, False),
    "shift": drop(BOOL, _TRUNCATION_REASON, False),
    "_debug_render_only": refuse(BOOL, _RAW_PROMPT_REASON, False),
    **_OPTION_PARAMETERS,
}

OLLAMA_CHAT: dict[str, Disposition] = {
    **_COMMON_PARAMETERS,
    "messages": remap(
        LIST, "calls get ids, images become parts, thinking becomes the reasoning field"
    ),
    "tools": remap(LIST, "functions, in the shape of Chat Completions"),
}
"""The parameters of ``/api/chat``."""

OLLAMA_GENERATE: dict[str, Disposition] = {
    **_COMMON_PARAMETERS,
    "prompt": remap(STR, "becomes the user's message"),
    "system": remap(STR, "becomes the first message"),
    "images": remap(LIST, "become parts of the user's message"),
    "context": refuse(
        LIST, "the forwarder stores no earlier turns; send them to /api/chat as messages", []
    ),
    "suffix": refuse(STR, "Chat Completions cannot fill a gap in a text", ""),
    "template": refuse(STR, _RAW_PROMPT_REASON, ""),
    "raw": refuse(BOOL, _RAW_PROMPT_REASON, False),
    "width": drop(INT, _IMAGE_SIZE_REASON, 0),
    "height": drop(INT, _IMAGE_SIZE_REASON, 0),
    "steps": drop(INT, _IMAGE_SIZE_REASON, 0),
}
"""The parameters of ``/api/generate``."""

_UNUSED_SAMPLING_OPTIONS = {
    name: drop(disposition.types, "embeddings generate no text")
    for name, disposition in _OPTION_PARAMETERS.items()
    if disposition.kind != "dropped"
}

_EMBEDDING_PARAMETERS: dict[str, Disposition] = {
    "model": carry(STR),
    "keep_alive": keep_local((int, float, str), _RUNNER_REASON),
    **_OPTION_PARAMETERS,
    **_UNUSED_SAMPLING_OPTIONS,
}

OLLAMA_EMBED: dict[str, Disposition] = {
    **_EMBEDDING_PARAMETERS,
    "input": remap((str, list), "one text or several"),
    "dimensions": carry(INT),
    "truncate": drop(BOOL, _TRUNCATION_REASON, False),
}
"""The parameters of ``/api/embed``."""

OLLAMA_EMBEDDINGS: dict[str, Disposition] = {
    **_EMBEDDING_PARAMETERS,
    "prompt": remap(STR, "sent as `input`"),
}
"""The parameters of ``/api/embeddings``."""


def flatten_options(request: Json) -> Json:
    """Move the options of a request to its top level, as ``options.<name>``.

    Raises InvalidRequest if ``options`` is not an object.
    """
    options = read_field(request, "options", DICT, "options") or {}
    rest = {name: value for name, value in request.items() if name != "options"}
    return {**rest, **{f"options.{name}": value for name, value in options.items()}}


_TEXT_FIELDS = ("content", "response", "thinking")
_LIST_FIELDS = ("tool_calls", "logprobs")


def fold_ollama(stream: EventStream) -> Json:
    """Return the last line with the texts and lists of all lines, for a client without streaming.

    Raises UpstreamProtocolError if the last line is not ``done``.
    """
    pieces: dict[str, list[Any]] = {}
    line: Json = {}
    for batch in stream:
        for line in batch:
            for source in (line, line.get("message") or {}):
                for name in (*_TEXT_FIELDS, *_LIST_FIELDS):
                    if name in source:
                        pieces.setdefault(name, []).append(source[name])
    if not line.get("done"):
        raise UpstreamProtocolError("The upstream's stream ended before its answer was finished.")
    whole: Json = {name: "".join(pieces[name]) for name in _TEXT_FIELDS if name in pieces}
    whole |= {
        name: [entry for entries in pieces[name] for entry in entries]
        for name in _LIST_FIELDS
        if name in pieces
    }
    logprobs = {"logprobs": whole.pop("logprobs")} if "logprobs" in whole else {}
    if "message" not in line:
        return {**line, **whole, **logprobs}
    return {**line, "message": {**line["message"], **whole}, **logprobs}


_PARAMETER_NAMES: dict[str, tuple[str, ...]] = {
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


OLLAMA_API = ClientApi(
    lambda path, has_header: path.startswith("/api/"),
    lambda error, request_id: ErrorAnswer(error.status, {"error": error.message}),
)

_CARRIER = Carrier("chat", "reasoning_content")


def make_client_protocol(
    name: str, path: str, parameters: Mapping[str, Disposition]
) -> ClientProtocol:
    return ClientProtocol(
        name,
        api=OLLAMA_API,
        paths=(path,),
        upstream_api="chat",
        parameters=parameters,
        parameter_names=_PARAMETER_NAMES,
        rewords_unknown_model=True,
        framing=Framing(
            framing.encode_lines, framing.LINE_KEEP_ALIVE, mimetype="application/x-ndjson"
        ),
        fold=fold_ollama,
        append_error=append_ollama_error,
        served_as={"chat": _CARRIER, "responses": _CARRIER},
        streams_by_default=True,
        has_nested_options=True,
    )


def make_embeddings_protocol(
    name: str,
    path: str,
    parameters: Mapping[str, Disposition],
    parameter_names: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Protocol:
    return Protocol(
        name,
        api=OLLAMA_API,
        paths=(path,),
        upstream_api="chat",
        parameters=parameters,
        parameter_names=parameter_names,
        rewords_unknown_model=True,
        is_embedding=True,
    )


OLLAMA_PROTOCOLS = (
    make_client_protocol("ollama", "/api/chat", OLLAMA_CHAT),
    make_client_protocol("ollama_generate", "/api/generate", OLLAMA_GENERATE),
)
"""``/api/chat`` and ``/api/generate``."""

OLLAMA_EMBEDDING_PROTOCOLS = (
    make_embeddings_protocol("ollama_embed", "/api/embed", OLLAMA_EMBED),
    make_embeddings_protocol(
        "ollama_embeddings", "/api/embeddings", OLLAMA_EMBEDDINGS, {"input": ("prompt",)}
    ),
)
"""``/api/embed`` and the older ``/api/embeddings``."""

"""Dispositions of the parameters of Ollama's API over Chat Completions and over embeddings.

Parameters that Ollama nests in ``options`` have names with that prefix: ``options.num_ctx``.
"""

from __future__ import annotations

from forwarder.core.types import Json
from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR, read_field
from forwarder.protocols.parameters import (
    Disposition,
    carry,
    drop,
    keep_local,
    offer,
    refuse,
    remap,
)

_RUNNER_REASON = "a setting of Ollama's runner; the upstream manages its models itself"
_SAMPLING_REASON = (
    "Chat Completions has no such parameter, and this upstream does not accept it either"
)
_TRUNCATION_REASON = "the upstream decides what to do with a conversation that is too long"
_RAW_PROMPT_REASON = "Chat Completions has messages, no raw prompt"
_IMAGE_SIZE_REASON = "the forwarder generates no images"

_OPTION_PARAMETERS: dict[str, Disposition] = {
    "options.temperature": remap(NUMBER, "is a parameter besides the messages"),
    "options.top_p": remap(NUMBER, "is a parameter besides the messages"),
    "options.seed": remap(NUMBER, "is a parameter besides the messages"),
    "options.presence_penalty": remap(NUMBER, "is a parameter besides the messages"),
    "options.frequency_penalty": remap(NUMBER, "is a parameter besides the messages"),
    "options.stop": remap((str, list), "is a parameter besides the messages"),
    "options.num_predict": remap(NUMBER, "sent as `max_completion_tokens`; 0 and less is no limit"),
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
    (int, float, str), f"{_RUNNER_REASON}; 0 without a message is answered as unloaded"
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
    "context": refuse(LIST, "no earlier turn is kept as tokens; /api/chat takes messages", []),
    "suffix": refuse(STR, "Chat Completions continues a text; it does not fill a gap", ""),
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

OLLAMA_TABLES = {"ollama": OLLAMA_CHAT, "ollama_generate": OLLAMA_GENERATE}
"""The client's protocol -> the dispositions of its parameters over Chat Completions."""

EMBEDDING_TABLES = {"ollama_embed": OLLAMA_EMBED, "ollama_embeddings": OLLAMA_EMBEDDINGS}
"""The client's protocol -> the dispositions of its parameters over embeddings."""


def flatten_options(request: Json) -> Json:
    """Move the options of a request to its top level, as ``options.<name>``.

    Raises InvalidRequest if ``options`` is not an object.
    """
    options = read_field(request, "options", DICT, "options") or {}
    rest = {name: value for name, value in request.items() if name != "options"}
    return {**rest, **{f"options.{name}": value for name, value in options.items()}}

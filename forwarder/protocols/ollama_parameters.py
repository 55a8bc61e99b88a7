"""The fate of every parameter of Ollama's API over Chat Completions, and over embeddings.

What Ollama nests in ``options`` is told with that in front, as a client would look for it:
``options.num_ctx``.
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

_RUNNER_REASON = "the upstream runs its models as it likes"
_SAMPLING_REASON = "Chat Completions has no such parameter, and this upstream none of its own"
_TRUNCATION_REASON = (
    "an upstream decides itself what to do with a conversation that is too long for it"
)
_RAW_PROMPT_REASON = (
    "Chat Completions has messages, and no prompt that could be seen or written whole"
)
_IMAGE_SIZE_REASON = "nothing here draws pictures to measure"

_OPTION_PARAMETERS: dict[str, Disposition] = {
    "options.temperature": remap(NUMBER, "stands beside the messages"),
    "options.top_p": remap(NUMBER, "stands beside the messages"),
    "options.seed": remap(NUMBER, "stands beside the messages"),
    "options.presence_penalty": remap(NUMBER, "stands beside the messages"),
    "options.frequency_penalty": remap(NUMBER, "stands beside the messages"),
    "options.stop": remap((str, list), "stands beside the messages"),
    "options.num_predict": remap(NUMBER, "is called max_completion_tokens; 0 and less is no limit"),
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
    (int, float, str), f"{_RUNNER_REASON}; 0, with nothing asked, is told to be done"
)

_COMMON_PARAMETERS: dict[str, Disposition] = {
    "model": carry(STR),
    "stream": keep_local(BOOL, "lines are Ollama's own form; true unless it is said"),
    "keep_alive": _KEEP_ALIVE_PARAMETER,
    "format": remap((str, dict), "is called response_format"),
    "think": remap((bool, str), "is called reasoning_effort: true is medium, false is none"),
    "logprobs": carry(BOOL),
    "top_logprobs": remap(INT, "goes with logprobs"),
    "truncate": drop(BOOL, _TRUNCATION_REASON, False),
    "shift": drop(BOOL, _TRUNCATION_REASON, False),
    "_debug_render_only": refuse(BOOL, _RAW_PROMPT_REASON, False),
    **_OPTION_PARAMETERS,
}

OLLAMA_CHAT: dict[str, Disposition] = {
    **_COMMON_PARAMETERS,
    "messages": remap(LIST, "calls get ids, images become parts, thinking its field"),
    "tools": remap(LIST, "functions, as Chat Completions has them"),
}
"""The parameters of ``/api/chat``."""

OLLAMA_GENERATE: dict[str, Disposition] = {
    **_COMMON_PARAMETERS,
    "prompt": remap(STR, "becomes the user's message"),
    "system": remap(STR, "becomes the first message"),
    "images": remap(LIST, "become parts of the user's message"),
    "context": refuse(LIST, "no earlier turn is kept as tokens; /api/chat takes messages", []),
    "suffix": refuse(STR, "Chat Completions writes an end, and nothing in between", ""),
    "template": refuse(STR, _RAW_PROMPT_REASON, ""),
    "raw": refuse(BOOL, _RAW_PROMPT_REASON, False),
    "width": drop(INT, _IMAGE_SIZE_REASON, 0),
    "height": drop(INT, _IMAGE_SIZE_REASON, 0),
    "steps": drop(INT, _IMAGE_SIZE_REASON, 0),
}
"""The parameters of ``/api/generate``."""

_UNUSED_SAMPLING_OPTIONS = {
    name: drop(fate.types, "nothing is written, so there is nothing to choose")
    for name, fate in _OPTION_PARAMETERS.items()
    if fate.kind != "dropped"
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
    "prompt": remap(STR, "is called input"),
}
"""The parameters of ``/api/embeddings``."""

OLLAMA_TABLES = {"ollama": OLLAMA_CHAT, "ollama_generate": OLLAMA_GENERATE}
"""The client's protocol -> the fates of its parameters over Chat Completions."""

EMBEDDING_TABLES = {"ollama_embed": OLLAMA_EMBED, "ollama_embeddings": OLLAMA_EMBEDDINGS}
"""Likewise, over embeddings."""


def flatten_options(request: Json) -> Json:
    """A request with its options beside its parameters, under the names that they have here.

    Raises InvalidRequest when its options are no object.
    """
    options = read_field(request, "options", DICT, "options") or {}
    rest = {name: value for name, value in request.items() if name != "options"}
    return {**rest, **{f"options.{name}": value for name, value in options.items()}}

"""The fate of every parameter of Ollama's API over Chat Completions, and over embeddings.

What Ollama nests in ``options`` is told with that in front, as a client would look for it:
``options.num_ctx``.
"""

from __future__ import annotations

from forwarder.core.types import Json
from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR, optional
from forwarder.protocols.parameters import Fate, carried, dropped, local, mapped, offered, refused

_RUNNER = "the upstream runs its models as it likes"
_CHOOSING = "Chat Completions has no such parameter, and this upstream none of its own"
_LONG = "an upstream decides itself what to do with a conversation that is too long for it"
_PROMPT = "Chat Completions has messages, and no prompt that could be seen or written whole"
_PICTURES = "nothing here draws pictures to measure"

_OPTIONS: dict[str, Fate] = {
    "options.temperature": mapped(NUMBER, "stands beside the messages"),
    "options.top_p": mapped(NUMBER, "stands beside the messages"),
    "options.seed": mapped(NUMBER, "stands beside the messages"),
    "options.presence_penalty": mapped(NUMBER, "stands beside the messages"),
    "options.frequency_penalty": mapped(NUMBER, "stands beside the messages"),
    "options.stop": mapped((str, list), "stands beside the messages"),
    "options.num_predict": mapped(
        NUMBER, "is called max_completion_tokens; 0 and less is no limit"
    ),
    "options.top_k": offered(NUMBER, _CHOOSING),
    "options.min_p": offered(NUMBER, _CHOOSING, 0),
    "options.repeat_penalty": offered(NUMBER, _CHOOSING, 1),
    "options.repeat_last_n": offered(NUMBER, _CHOOSING),
    "options.typical_p": offered(NUMBER, _CHOOSING, 1),
    "options.tfs_z": offered(NUMBER, _CHOOSING, 1),
    "options.mirostat": offered(NUMBER, _CHOOSING, 0),
    "options.mirostat_tau": offered(NUMBER, _CHOOSING),
    "options.mirostat_eta": offered(NUMBER, _CHOOSING),
    "options.penalize_newline": offered(BOOL, _CHOOSING),
    "options.num_keep": dropped(ANY, _LONG),
    "options.num_ctx": dropped(ANY, _RUNNER),
    "options.num_batch": dropped(ANY, _RUNNER),
    "options.num_gpu": dropped(ANY, _RUNNER),
    "options.main_gpu": dropped(ANY, _RUNNER),
    "options.num_thread": dropped(ANY, _RUNNER),
    "options.draft_num_predict": dropped(ANY, _RUNNER),
    "options.numa": dropped(ANY, _RUNNER),
    "options.low_vram": dropped(ANY, _RUNNER),
    "options.f16_kv": dropped(ANY, _RUNNER),
    "options.logits_all": dropped(ANY, _RUNNER),
    "options.vocab_only": dropped(ANY, _RUNNER),
    "options.use_mmap": dropped(ANY, _RUNNER),
    "options.use_mlock": dropped(ANY, _RUNNER),
    "options.embedding_only": dropped(ANY, _RUNNER),
}

_KEEP_ALIVE = local((int, float, str), f"{_RUNNER}; 0, with nothing asked, is told to be done")

_COMMON: dict[str, Fate] = {
    "model": carried(STR),
    "stream": local(BOOL, "lines are Ollama's own form; true unless it is said"),
    "keep_alive": _KEEP_ALIVE,
    "format": mapped((str, dict), "is called response_format"),
    "think": mapped((bool, str), "is called reasoning_effort: true is medium, false is none"),
    "logprobs": carried(BOOL),
    "top_logprobs": mapped(INT, "goes with logprobs"),
    "truncate": dropped(BOOL, _LONG, False),
    "shift": dropped(BOOL, _LONG, False),
    "_debug_render_only": refused(BOOL, _PROMPT, False),
    **_OPTIONS,
}

OLLAMA_CHAT: dict[str, Fate] = {
    **_COMMON,
    "messages": mapped(LIST, "calls get ids, images become parts, thinking its field"),
    "tools": mapped(LIST, "functions, as Chat Completions has them"),
}
"""The parameters of ``/api/chat``."""

OLLAMA_GENERATE: dict[str, Fate] = {
    **_COMMON,
    "prompt": mapped(STR, "becomes the user's message"),
    "system": mapped(STR, "becomes the first message"),
    "images": mapped(LIST, "become parts of the user's message"),
    "context": refused(LIST, "no earlier turn is kept as tokens; /api/chat takes messages", []),
    "suffix": refused(STR, "Chat Completions writes an end, and nothing in between", ""),
    "template": refused(STR, _PROMPT, ""),
    "raw": refused(BOOL, _PROMPT, False),
    "width": dropped(INT, _PICTURES, 0),
    "height": dropped(INT, _PICTURES, 0),
    "steps": dropped(INT, _PICTURES, 0),
}
"""The parameters of ``/api/generate``."""

_UNCHOSEN = {
    name: dropped(fate.types, "nothing is written, so there is nothing to choose")
    for name, fate in _OPTIONS.items()
    if fate.kind != "dropped"
}

_EMBEDDED: dict[str, Fate] = {
    "model": carried(STR),
    "keep_alive": local((int, float, str), _RUNNER),
    **_OPTIONS,
    **_UNCHOSEN,
}

OLLAMA_EMBED: dict[str, Fate] = {
    **_EMBEDDED,
    "input": mapped((str, list), "one text or several"),
    "dimensions": carried(INT),
    "truncate": dropped(BOOL, _LONG, False),
}
"""The parameters of ``/api/embed``."""

OLLAMA_EMBEDDINGS: dict[str, Fate] = {
    **_EMBEDDED,
    "prompt": mapped(STR, "is called input"),
}
"""The parameters of ``/api/embeddings``."""

OLLAMA_TABLES = {"ollama": OLLAMA_CHAT, "ollama_generate": OLLAMA_GENERATE}
"""The client's protocol -> the fates of its parameters over Chat Completions."""

EMBEDDING_TABLES = {"ollama_embed": OLLAMA_EMBED, "ollama_embeddings": OLLAMA_EMBEDDINGS}
"""Likewise, over embeddings."""


def flat(request: Json) -> Json:
    """A request with its options beside its parameters, under the names that they have here.

    Raises InvalidRequest when its options are no object.
    """
    options = optional(request, "options", DICT, "options") or {}
    rest = {name: value for name, value in request.items() if name != "options"}
    return {**rest, **{f"options.{name}": value for name, value in options.items()}}

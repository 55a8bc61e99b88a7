"""The knobs of a profile: what differs between providers, and which values each knob takes.

The first value of a choice is its default, and means the careful thing: what most servers take.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

log = logging.getLogger("forwarder.profiles")

ProfileChanges = Mapping[str, Any]
"""Knob -> value."""


def define_field(default: Any, takes: str, accepts: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"takes": takes, "accepts": accepts})


def define_switch(default: bool) -> Any:
    return define_field(default, "true or false", lambda value: isinstance(value, bool))


def define_choice(*words: str | None) -> Any:
    shown = ", ".join("null" if word is None else word for word in words)
    return define_field(words[0], f"one of {shown}", lambda value: value in words)


def define_text(default: str | None, *, null: bool = False) -> Any:
    takes = "a text or null" if null else "a text"
    return define_field(
        default, takes, lambda value: isinstance(value, str) or (null and value is None)
    )


def define_count(default: int) -> Any:
    return define_field(
        default, "a whole number from 0", lambda value: type(value) is int and 0 <= value <= 10**6
    )


def define_switch_or_auto() -> Any:
    return define_field(
        "auto", "auto, true or false", lambda value: value == "auto" or isinstance(value, bool)
    )


def define_object(takes: str, of: Callable[[Any], bool]) -> Any:
    def is_accepted(value: Any) -> bool:
        return isinstance(value, Mapping) and all(map(of, value.values()))

    metadata = {"takes": takes, "accepts": is_accepted}
    return field(default_factory=dict, metadata=metadata, hash=False)


def is_name_list(value: Any) -> bool:
    listed = isinstance(value, list | tuple | frozenset)
    return listed and all(isinstance(name, str) for name in value)


@dataclass(frozen=True)
class Profile:
    """Where a provider differs from what OpenAI documents.

    ``hosts`` are parts of a base URL that give the provider away.
    """

    name: str
    hosts: tuple[str, ...] = ()

    # -- messages

    developer_role: str = define_choice("system", "developer", "user")
    """What the developer role is called; ``user`` where the system role is unknown too."""
    system_at_head: bool = define_switch(False)
    """Only one system message is taken, the first."""
    merge_neighbours: bool = define_switch(False)
    """Messages of one role may not follow each other."""
    join_text_parts: bool = define_switch(True)
    """Content of text parts alone goes as one string, which every server understands."""
    null_content: bool = define_switch(True)
    """A message of calls alone may have ``null`` for its content."""
    extra_message_fields: bool = define_switch(True)
    """Fields of messages that are not OpenAI's are let pass."""
    signature_fields: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Those with signatures that pass although others do not; see `protocols/signatures.py`."""

    # -- parameters

    max_tokens: str = define_choice("max_tokens", "max_completion_tokens", "as_is")
    """The name of the token limit."""
    stream_options: bool = define_switch(True)
    """``stream_options`` is known."""
    always_stream: bool = define_switch(False)
    """Whole answers are refused; streams are asked for instead, and put together here."""
    response_format: str = define_choice("json_schema", "json_object", "none", "schema_only")
    """The most that can be asked for; ``schema_only`` knows no ``json_object``."""
    drop: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Parameters that are refused, and so left out, in either protocol."""
    add: Mapping[str, Any] = define_object("an object", lambda value: True)
    """Fields that every chat request gets unless it has them."""
    chat_takes: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Sampling parameters that chat requests may have beyond OpenAI's, for clients whose API has
    them: ``top_k``, ``min_p``, ``repetition_penalty`` …"""

    # -- tools

    forced_tool_choice: str = define_choice("ok", "auto", "any", "disable_thinking")
    """What becomes of a demand to use a tool: granted, given up, spelled ``any``, or granted
    without thinking."""
    parallel_tool_calls: bool = define_switch(True)
    """``parallel_tool_calls`` is known."""
    custom_tools: bool = define_switch(False)
    """Freeform tools are known."""
    allowed_tools: bool = define_switch(False)
    """``tool_choice: {"type": "allowed_tools"}`` is known."""
    strict_tools: bool = define_switch(True)
    """``strict`` in a function's definition is known."""
    web_search_options: bool = define_switch(False)
    """The model searches the web itself, and takes ``web_search_options`` for it."""
    schema_dialect: str = define_choice("openai", "plain", "moonshot", "gemini", "mistral")
    """What is taken of JSON Schema; see `schemas.py`."""
    tool_name_limit: int = define_count(64)
    """Characters in a tool's name; longer names are mapped there and back.  0: no limit."""
    call_id_limit: int = define_count(40)
    """Characters in the id of a call; longer ids in the history are replaced.  0: no limit."""
    call_id_exact: bool = define_switch(False)
    """Ids have exactly that many characters, letters and digits."""

    # -- reasoning

    reasons: bool | str = define_switch_or_auto()
    """The model reasons, so that a Responses upstream is asked for summaries and sealed reasoning
    where the client cannot ask; ``auto``: its name says whether it does."""
    reasoning_field: str | None = define_choice("reasoning_content", "reasoning", None)
    """The message field in which earlier reasoning goes back; ``None``: it is not taken."""
    reasoning_replay: str = define_choice("all", "tool_turns", "none", "as_is")
    """Which earlier messages bring their reasoning: all, those with calls, or none."""
    reasoning_placeholder: str | None = define_text(None, null=True)
    """Stands for lost reasoning of a message with tool calls, where providers insist on some."""
    signature_placeholder: str | None = define_text(None, null=True)
    """Stands for the lost signature of a call, where providers insist on one."""
    thinking_switch: str = define_choice(
        "effort", "enable_thinking", "thinking", "thinking_effort", "reasoning", "template"
    )
    """How thinking is switched: ``reasoning_effort``, ``enable_thinking``, ``thinking.type``
    (alone or beside the effort), ``reasoning.effort`` or ``chat_template_kwargs``."""
    effort_map: Mapping[str, str | None] = define_object(
        "an object of texts or null", lambda value: value is None or isinstance(value, str)
    )
    """An effort -> the provider's word for it, ``None`` when there is none; others stay."""

    # -- media

    image_url: str = define_choice("url", "base64", "none")
    """How images are taken."""
    tool_image: str = define_choice("user", "inline", "drop")
    """Where the image of a tool's result goes: into a user message behind the results, as do
    files; into the result itself, or nowhere."""
    file: str = define_choice("inline", "upload", "none")
    """How files are taken."""

    # -- the way there

    key_header: str | None = define_text(None, null=True)
    """The header that carries the key, where it is not ``Authorization``."""
    chat_path: str = define_text("chat/completions")
    """Below the base URL; with a slash in front, from the host's root."""
    responses_path: str = define_text("responses")
    """Likewise."""

    # -- native Responses

    responses_developer: str = define_choice("developer", "system", "user")
    """What the developer role is called there."""
    keep_reasoning_text: bool = define_switch(True)
    """The text of reasoning items may come back."""
    responses_system: str = define_choice("system", "developer")
    """What the system role is called there."""
    responses_add: Mapping[str, Any] = define_object("an object", lambda value: True)
    """Fields that every Responses request gets unless it has them."""
    server_calls: tuple[str, ...] = define_field((), "an array of texts", is_name_list)
    """Beginnings of the ids of calls that the provider answers itself (``xs_call_``)."""
    reasoning_items: str = define_choice("keep", "drop")
    """Whether encrypted reasoning goes back."""
    repair_responses: bool = define_switch(False)
    """Streams lack ids, indexes, announcements or usage, and are completed."""
    compaction: bool = define_switch(False)
    """Conversations are compacted there: the endpoint, the trigger and the threshold are known."""
    keeps_responses: bool = define_switch(False)
    """Responses that were to be stored can be continued by their ids."""
    codex_models: bool = define_switch(False)
    """The models that Codex asks for by itself, such as codex-auto-review, are served there."""
    responses_takes: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Parameters and types of content parts that are taken beyond those of OpenAI's."""

    # -- the profile itself

    learn: bool = define_switch(True)
    """Refusals that no knob foresaw are learned from."""
    models: Mapping[str, ProfileChanges] = define_object(
        "an object of such objects by model pattern", lambda value: isinstance(value, Mapping)
    )
    """A pattern of model names (``qwen3-*``) -> what is different for them; the last counts."""


_FIELDS_BY_NAME = {knob.name: knob for knob in fields(Profile) if knob.metadata}

PROFILE_FIELDS = frozenset(_FIELDS_BY_NAME)
"""The fields that an operator may override."""

_RETIRED_FIELDS = frozenset({"error_status"})
"""Fields that older versions had.  They are accepted with a warning."""


def validate_quirks(quirks: ProfileChanges) -> ProfileChanges:
    """Give ``quirks`` back; raise ValueError that says what they must be.

    Those that older versions had are left out.
    """
    retired = sorted(_RETIRED_FIELDS & quirks.keys())
    if retired:
        log.warning("these quirks have no effect any more: %s", ", ".join(retired))
        quirks = {k: v for k, v in quirks.items() if k not in _RETIRED_FIELDS}
    if not quirks.keys() <= PROFILE_FIELDS:
        raise ValueError("a JSON object with names out of " + ", ".join(sorted(PROFILE_FIELDS)))
    for name, value in quirks.items():
        rules = _FIELDS_BY_NAME[name].metadata
        if not rules["accepts"](value):
            raise ValueError(f"a JSON object whose '{name}' is {rules['takes']}")
    models = quirks.get("models", {})
    for changes in models.values():
        if "models" in changes:
            raise ValueError("a JSON object whose 'models' hold no 'models'")
    kept = {pattern: validate_quirks(changes) for pattern, changes in models.items()}
    return {**quirks, "models": kept} if models else quirks

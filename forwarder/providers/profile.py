"""The fields of a provider profile and the values that each field takes.

The defaults are what most servers accept.  The first value of a choice is its default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from forwarder.protocols.hosted_tool_names import EVERY_TOOL, HOSTED_TOOLS

log = logging.getLogger("forwarder.profiles")

ProfileChanges = Mapping[str, Any]
"""Profile field -> value."""


def define_field(default: Any, takes: str, accepts: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"takes": takes, "accepts": accepts})


def define_switch(default: bool) -> Any:
    return define_field(default, "true or false", lambda value: isinstance(value, bool))


def define_choice(*words: str | None) -> Any:
    choices = ", ".join("null" if word is None else word for word in words)
    return define_field(words[0], f"one of {choices}", lambda value: value in words)


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


def define_object(takes: str, accepts_value: Callable[[Any], bool]) -> Any:
    def is_accepted(value: Any) -> bool:
        return isinstance(value, Mapping) and all(map(accepts_value, value.values()))

    metadata = {"takes": takes, "accepts": is_accepted}
    return field(default_factory=dict, metadata=metadata, hash=False)


def is_name_list(value: Any) -> bool:
    is_list = isinstance(value, list | tuple | frozenset)
    return is_list and all(isinstance(name, str) for name in value)


def is_tool_list(value: Any) -> bool:
    return is_name_list(value) and {*value} <= {EVERY_TOOL, *HOSTED_TOOLS}


@dataclass(frozen=True)
class Profile:
    """The differences of a provider from OpenAI's documented APIs.

    ``hosts`` are parts of a base URL that identify the provider.
    """

    name: str
    hosts: tuple[str, ...] = ()

    # -- messages

    developer_role: str = define_choice("system", "developer", "user")
    """The name of the developer role; ``user`` if the system role is unknown too."""
    system_at_head: bool = define_switch(False)
    """Only one system message is accepted, and only as the first message."""
    merge_neighbours: bool = define_switch(False)
    """Neighbouring messages of one role are refused."""
    join_text_parts: bool = define_switch(True)
    """Content with only text parts is sent as one string, which every server accepts."""
    null_content: bool = define_switch(True)
    """A message with only calls may have ``null`` content."""
    extra_message_fields: bool = define_switch(True)
    """Message fields that OpenAI does not have are accepted."""
    signature_fields: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Signature fields that are accepted although other extra fields are not; see
    `protocols/signatures.py`."""

    # -- parameters

    max_tokens: str = define_choice("max_tokens", "max_completion_tokens", "as_is")
    """The name of the token limit."""
    stream_options: bool = define_switch(True)
    """``stream_options`` is accepted."""
    always_stream: bool = define_switch(False)
    """Only streams are supported; the forwarder folds them for clients that do not stream."""
    response_format: str = define_choice("json_schema", "json_object", "none", "schema_only")
    """The strictest format that is enforced; ``schema_only`` has no ``json_object``."""
    drop: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Parameters that are refused in either protocol, and therefore dropped."""
    add: Mapping[str, Any] = define_object("an object", lambda value: True)
    """Fields that are added to every chat request that lacks them."""
    chat_takes: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Sampling parameters beyond OpenAI's that chat requests may have, for clients of APIs with
    them: ``top_k``, ``min_p``, ``repetition_penalty`` …"""

    # -- tools

    forced_tool_choice: str = define_choice("ok", "auto", "any", "disable_thinking")
    """The treatment of a forced tool choice: accepted, replaced by ``auto``, spelled ``any``, or
    accepted with thinking disabled."""
    parallel_tool_calls: bool = define_switch(True)
    """``parallel_tool_calls`` is accepted."""
    custom_tools: bool = define_switch(False)
    """Custom (freeform) tools are accepted."""
    allowed_tools: bool = define_switch(False)
    """``tool_choice: {"type": "allowed_tools"}`` is accepted."""
    strict_tools: bool = define_switch(True)
    """``strict`` in a function's definition is accepted."""
    web_search_options: bool = define_switch(False)
    """The model searches the web itself and accepts ``web_search_options``."""
    schema_dialect: str = define_choice("openai", "plain", "moonshot", "gemini", "mistral")
    """The subset of JSON Schema that is accepted; see `schemas.py`."""
    tool_name_limit: int = define_count(64)
    """The maximum characters of a tool name; longer names are shortened, and restored in the
    answer.  0: no limit."""
    call_id_limit: int = define_count(40)
    """The maximum characters of a call id; longer ids in the history are replaced.  0: no limit."""
    call_id_exact: bool = define_switch(False)
    """Call ids must have exactly `call_id_limit` characters, only letters and digits."""

    # -- reasoning

    reasons: bool | str = define_switch_or_auto()
    """The model reasons.  Requests to a Responses upstream then ask for summaries and encrypted
    reasoning if the client's API cannot.  ``auto``: decided by the model's name."""
    reasoning_field: str | None = define_choice("reasoning_content", "reasoning", None)
    """The message field in which earlier reasoning is sent back; ``None``: it is not accepted."""
    reasoning_replay: str = define_choice("all", "tool_turns", "none", "as_is")
    """The earlier messages that carry reasoning: all, those with calls, none, or unchanged."""
    reasoning_placeholder: str | None = define_text(None, null=True)
    """Replaces lost reasoning of a message with tool calls, for providers that require some."""
    signature_placeholder: str | None = define_text(None, null=True)
    """Replaces the lost signature of a call, for providers that require one."""
    thinking_switch: str = define_choice(
        "effort", "enable_thinking", "thinking", "thinking_effort", "reasoning", "template"
    )
    """The parameter that controls thinking: ``reasoning_effort``, ``enable_thinking``,
    ``thinking.type`` (alone or with the effort), ``reasoning.effort`` or
    ``chat_template_kwargs``."""
    effort_map: Mapping[str, str | None] = define_object(
        "an object of texts or null", lambda value: value is None or isinstance(value, str)
    )
    """Effort -> the provider's name for it, or ``None`` if it has none; others are unchanged."""

    # -- media

    image_url: str = define_choice("url", "base64", "none")
    """The form in which images are accepted."""
    tool_image: str = define_choice("user", "inline", "drop")
    """The place for an image in a tool result: a user message after the results (as for files),
    the result itself, or none."""
    file: str = define_choice("inline", "upload", "none")
    """The form in which files are accepted."""

    # -- connection

    key_header: str | None = define_text(None, null=True)
    """The header that carries the key if it is not ``Authorization``."""
    chat_path: str = define_text("chat/completions")
    """The path below the base URL; with a leading slash, from the host's root."""
    responses_path: str = define_text("responses")
    """As `chat_path`."""

    # -- native Responses

    responses_developer: str = define_choice("developer", "system", "user")
    """The name of the developer role in the Responses API."""
    keep_reasoning_text: bool = define_switch(True)
    """The text of reasoning items is accepted."""
    responses_system: str = define_choice("system", "developer")
    """The name of the system role in the Responses API."""
    responses_add: Mapping[str, Any] = define_object("an object", lambda value: True)
    """Fields that are added to every Responses request that lacks them."""
    server_calls: tuple[str, ...] = define_field((), "an array of texts", is_name_list)
    """Id prefixes of calls that the provider answers itself (``xs_call_``)."""
    reasoning_items: str = define_choice("keep", "drop")
    """Whether encrypted reasoning is sent back."""
    repair_responses: bool = define_switch(False)
    """Streams lack ids, indexes, announcements or usage; the forwarder adds them."""
    compaction: bool = define_switch(False)
    """The provider compacts conversations: it has the endpoint, the trigger and the threshold."""
    keeps_responses: bool = define_switch(False)
    """The provider stores responses, which can be continued by id."""
    codex_models: bool = define_switch(False)
    """The provider serves the models that Codex itself uses, such as codex-auto-review."""
    hosted_tools: frozenset[str] = define_field(
        frozenset({EVERY_TOOL}), "an array of all, " + ", ".join(HOSTED_TOOLS), is_tool_list
    )
    """The hosted tools that the provider runs itself in the Responses API; the forwarder runs or
    drops the others.  ``all`` also passes tools that are not known here."""
    responses_takes: frozenset[str] = define_field(frozenset(), "an array of names", is_name_list)
    """Parameters and types of content parts beyond OpenAI's that are accepted."""

    # -- the profile itself

    learn: bool = define_switch(True)
    """The forwarder infers quirks from refusals."""
    models: Mapping[str, ProfileChanges] = define_object(
        "an object of such objects by model pattern", lambda value: isinstance(value, Mapping)
    )
    """A pattern of model names (``qwen3-*``) -> changes for them; later patterns win."""

    def get_extra_parameters(self, protocol: str) -> frozenset[str]:
        """Return the parameters that this provider accepts beyond those of the API."""
        extra: frozenset[str] = getattr(self, API_FIELDS[protocol].extra_parameters)
        return extra


_FIELDS_BY_NAME = {each.name: each for each in fields(Profile) if each.metadata}

PROFILE_FIELDS = frozenset(_FIELDS_BY_NAME)
"""The fields that an operator may override."""

_RETIRED_FIELDS = frozenset({"error_status"})
"""Fields of older versions, which are accepted with a warning."""


def validate_quirks(quirks: ProfileChanges) -> ProfileChanges:
    """Return the ``quirks`` without retired fields.  Raises ValueError if they are invalid.

    The message of the error describes valid quirks, such as ``a JSON object whose 'drop' is ...``.
    """
    retired = sorted(_RETIRED_FIELDS & quirks.keys())
    if retired:
        log.warning(
            "these quirks no longer have an effect: %s",
            ", ".join(retired),
            extra={"event": "retired_quirks"},
        )
        quirks = {k: v for k, v in quirks.items() if k not in _RETIRED_FIELDS}
    if not quirks.keys() <= PROFILE_FIELDS:
        raise ValueError("a JSON object with only the names " + ", ".join(sorted(PROFILE_FIELDS)))
    for name, value in quirks.items():
        rules = _FIELDS_BY_NAME[name].metadata
        if not rules["accepts"](value):
            raise ValueError(f"a JSON object whose '{name}' is {rules['takes']}")
    models = quirks.get("models", {})
    for changes in models.values():
        if "models" in changes:
            raise ValueError("a JSON object whose 'models' contain no 'models'")
    valid_models = {pattern: validate_quirks(changes) for pattern, changes in models.items()}
    return {**quirks, "models": valid_models} if models else quirks


class ApiFields(NamedTuple):
    """The names that differ by the upstream's API: two profile fields and a parameter.

    ``shows_reasoning_models`` is true for an API that refuses parameters because the model does or
    does not reason.
    """

    developer_role: str
    extra_parameters: str
    effort_parameter: str
    shows_reasoning_models: bool


API_FIELDS = {
    "chat": ApiFields("developer_role", "chat_takes", "reasoning_effort", False),
    "responses": ApiFields("responses_developer", "responses_takes", "reasoning", True),
}
"""The upstream's protocol -> its names."""

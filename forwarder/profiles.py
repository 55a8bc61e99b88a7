"""Provider quirks as data, and the pure functions that apply them at the upstream's edge.

A translator writes what OpenAI documents; a profile says where a provider differs.  Functions
here take a request body that is about to leave and give one that the provider takes; what a
mend loses goes into the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlsplit

from forwarder.translate.call import Json
from forwarder.translate.check import DICT, LIST, expect, optional
from forwarder.translate.reasoning import FIELDS, is_own
from forwarder.translate.terms import Ledger

_OPENAI_ONLY = frozenset(
    {
        "metadata", "moderation", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "service_tier", "store", "verbosity",
    }
)  # fmt: skip
"""Chat parameters that concern OpenAI's own service; strict providers refuse them."""


@dataclass(frozen=True)
class Profile:
    """Where a provider differs from what OpenAI documents.

    ``hosts`` are parts of a base URL that give the provider away.  The other fields are knobs of
    a chat upstream, but for ``drop``, which holds for both protocols.
    """

    name: str
    hosts: tuple[str, ...] = ()
    developer_role: str = "system"
    """What the developer role is called: ``developer`` or ``system``."""
    system_at_head: bool = False
    """Only one system message is taken, the first."""
    max_tokens: str = "max_tokens"
    """The name of the token limit."""
    stream_options: bool = True
    """``stream_options`` is known."""
    join_text_parts: bool = True
    """Content of text parts alone goes as one string, which every server understands."""
    reasoning_field: str | None = "reasoning_content"
    """The message field in which earlier reasoning goes back; ``None``: it is not taken."""
    reasoning_placeholder: str | None = None
    """Stands for lost reasoning of a message with tool calls, where providers insist on some."""
    custom_tools: bool = False
    """Freeform tools are known."""
    allowed_tools: bool = False
    """``tool_choice: {"type": "allowed_tools"}`` is known."""
    strict_tools: bool = True
    """``strict`` in a function's definition is known."""
    key_header: str | None = None
    """The header that carries the key, where it is not ``Authorization``."""
    error_status: bool = True
    """Errors come with an error status, not inside a 200."""
    drop: frozenset[str] = frozenset()
    """Parameters that are refused, and so left out."""


_TABLE = (
    Profile("generic"),
    Profile(
        "openai",
        ("api.openai.com",),
        developer_role="developer",
        max_tokens="max_completion_tokens",
        join_text_parts=False,
        reasoning_field=None,
        custom_tools=True,
        allowed_tools=True,
    ),
    Profile(
        "azure",
        (".openai.azure.com", ".azure.com"),
        developer_role="developer",
        max_tokens="max_completion_tokens",
        join_text_parts=False,
        reasoning_field=None,
        custom_tools=True,
        allowed_tools=True,
        key_header="api-key",
    ),
    Profile("dashscope", ("dashscope",), drop=_OPENAI_ONLY),
    Profile("deepseek", ("api.deepseek.com",), drop=_OPENAI_ONLY, reasoning_placeholder=" "),
    Profile(
        "moonshot",
        ("moonshot.", "api.kimi.com"),
        reasoning_placeholder=" ",
        drop=_OPENAI_ONLY,
    ),
    Profile("zhipu", ("bigmodel.cn", "api.z.ai"), drop=_OPENAI_ONLY),
    Profile("minimax", ("minimax",), drop=_OPENAI_ONLY, system_at_head=True),
    Profile(
        "mistral",
        ("api.mistral.ai",),
        stream_options=False,
        reasoning_field=None,
        strict_tools=False,
        drop=_OPENAI_ONLY | {"reasoning_effort", "user"},
    ),
    Profile(
        "groq",
        ("api.groq.com",),
        max_tokens="max_completion_tokens",
        reasoning_field="reasoning",
        drop=_OPENAI_ONLY,
    ),
    Profile(
        "gemini", ("generativelanguage.googleapis.com",), reasoning_field=None, drop=_OPENAI_ONLY
    ),
    Profile("xai", ("api.x.ai",), drop=_OPENAI_ONLY),
    Profile("openrouter", ("openrouter.ai",), reasoning_field="reasoning"),
    Profile("nvidia", ("integrate.api.nvidia.com",), drop=_OPENAI_ONLY | {"parallel_tool_calls"}),
    Profile("vllm", system_at_head=True, drop=_OPENAI_ONLY),
    Profile("sglang", system_at_head=True, drop=_OPENAI_ONLY),
    Profile("llamacpp", system_at_head=True, drop=_OPENAI_ONLY),
    Profile("ollama", (":11434",), reasoning_field="reasoning", drop=_OPENAI_ONLY),
    Profile("lmstudio", (":1234",), drop=_OPENAI_ONLY),
    Profile("demo", ("demo.invalid",), developer_role="developer",
            max_tokens="max_completion_tokens", custom_tools=True),
)  # fmt: skip

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _TABLE}
"""Provider name -> profile."""

KNOBS = frozenset(field.name for field in fields(Profile)) - {"name", "hosts"}
"""The fields that an operator may override."""


def profile_for(provider: str, base_url: str, quirks: Mapping[str, Any]) -> Profile:
    """The named profile, or the one that the URL gives away, with the operator's overrides."""
    profile = PROFILES[provider] if provider else _inferred(base_url)
    changes = dict(quirks)
    if "drop" in changes:
        changes["drop"] = frozenset(changes["drop"])
    return replace(profile, **changes)


def _inferred(base_url: str) -> Profile:
    host = urlsplit(base_url).netloc.lower()
    for profile in _TABLE:
        if any(host.endswith(mark) if mark[0] == ":" else mark in host for mark in profile.hosts):
            return profile
    return PROFILES["generic"]


# -- mends --------------------------------------------------------------------------------------


def mend(body: Json, protocol: str, profile: Profile, ledger: Ledger) -> Json:
    """Give ``body`` as this provider takes it.

    A body of the client's own has not been looked at yet; raises InvalidRequest where it is not of
    the shape that a mend relies on.
    """
    mended = dict(body)
    for step in _STEPS[protocol]:
        step(mended, profile, ledger)
    return mended


def _drop(body: Json, profile: Profile, ledger: Ledger) -> None:
    for name in sorted(profile.drop & body.keys()):
        del body[name]
        ledger.drop(name, f"{profile.name} does not take it")


def _token_limit(body: Json, profile: Profile, ledger: Ledger) -> None:
    for name in ("max_completion_tokens", "max_tokens"):
        if name != profile.max_tokens and name in body:
            limit = body.pop(name)
            body.setdefault(profile.max_tokens, limit)


def _stream_options(body: Json, profile: Profile, ledger: Ledger) -> None:
    if not profile.stream_options:
        body.pop("stream_options", None)


def _messages(body: Json, profile: Profile, ledger: Ledger) -> None:
    body["messages"] = [_message(message, profile) for message in _objects(body, "messages")]
    if profile.system_at_head:
        body["messages"] = _system_at_head(body["messages"])


def _message(message: Json, profile: Profile) -> Json:
    role = message.get("role")
    mended = message
    if role == "developer" and profile.developer_role != role:
        mended = {**message, "role": profile.developer_role}
    elif role == "assistant":
        mended = _with_reasoning(message, profile)
    content = mended.get("content")
    if profile.join_text_parts and type(content) is list and _only_text(content):
        mended = {**mended, "content": "\n".join(part["text"] for part in content)}
    return mended


def _only_text(content: list[Any]) -> bool:
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )


def _with_reasoning(message: Json, profile: Profile) -> Json:
    """Earlier reasoning in the field that the provider reads, or nowhere."""
    if profile.reasoning_field is None:
        return {k: v for k, v in message.items() if k not in (*FIELDS, "reasoning_details")}
    thought = next((message[name] for name in FIELDS if message.get(name)), None)
    if thought is None and message.get("tool_calls"):
        thought = profile.reasoning_placeholder
    if thought is None:
        return message
    mended = {k: v for k, v in message.items() if k not in FIELDS}
    return {**mended, profile.reasoning_field: thought}


def _system_at_head(messages: list[Json]) -> list[Json]:
    system = [m for m in messages if m.get("role") in ("system", "developer")]
    if not system or system == messages[:1]:
        return messages
    head = {"role": "system", "content": "\n\n".join(_plain(m.get("content")) for m in system)}
    return [head, *(m for m in messages if m not in system)]


def _plain(content: Any) -> str:
    if not isinstance(content, list):
        return str(content or "")
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))


def _tools(body: Json, profile: Profile, ledger: Ledger) -> None:
    if not profile.strict_tools and body.get("tools"):
        body["tools"] = [_not_strict(tool) for tool in _objects(body, "tools")]
    choice = body.get("tool_choice")
    if (
        isinstance(choice, dict)
        and choice.get("type") == "allowed_tools"
        and not profile.allowed_tools
    ):
        _only_allowed(body, optional(choice, "allowed_tools", DICT, "tool_choice") or {})


def _not_strict(tool: Json) -> Json:
    function = optional(tool, "function", DICT, "tools") or {}
    mended = {k: v for k, v in function.items() if k != "strict"}
    return {**tool, "function": mended} if function else tool


def _only_allowed(body: Json, allowed: Json) -> None:
    """Offer only the allowed tools, which comes to the same."""
    names = [_tool_name(ref) for ref in _objects(allowed, "tools")]
    body["tools"] = [tool for tool in _objects(body, "tools") if _tool_name(tool) in names]
    body["tool_choice"] = allowed.get("mode") or "auto"


def _tool_name(tool: Json) -> Any:
    return (optional(tool, str(tool.get("type")), DICT, "tools") or {}).get("name")


def _objects(holder: Json, key: str) -> list[Json]:
    items = optional(holder, key, LIST, key) or []
    return [expect(item, DICT, f"{key}[{i}]") for i, item in enumerate(items)]


def _foreign_seals(body: Json, profile: Profile, ledger: Ledger) -> None:
    """A Responses upstream cannot open what this forwarder sealed for another one."""
    items = body.get("input")
    if isinstance(items, list) and any(_sealed_here(item) for item in items):
        body["input"] = [item for item in items if not _sealed_here(item)]


def _sealed_here(item: Any) -> bool:
    return isinstance(item, dict) and is_own(item.get("encrypted_content"))


_Step = Callable[[Json, Profile, Ledger], None]

_STEPS: dict[str, tuple[_Step, ...]] = {
    "chat": (_drop, _token_limit, _stream_options, _tools, _messages),
    "responses": (_drop, _foreign_seals),
}

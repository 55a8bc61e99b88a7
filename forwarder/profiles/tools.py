"""The tools of a request, and what is demanded of them, as a provider takes them."""

from __future__ import annotations

from typing import Any

from forwarder.profiles.knobs import Profile
from forwarder.profiles.schemas import rewritten
from forwarder.translate.call import Json
from forwarder.translate.check import DICT, LIST, expect, optional
from forwarder.translate.terms import Ledger


def offer(body: Json, profile: Profile, ledger: Ledger) -> None:
    if not profile.strict_tools and body.get("tools"):
        body["tools"] = [_not_strict(tool) for tool in objects(body, "tools")]
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
    permitted = [_tool_name(ref) for ref in objects(allowed, "tools")]
    body["tools"] = [tool for tool in objects(body, "tools") if _tool_name(tool) in permitted]
    body["tool_choice"] = allowed.get("mode") or "auto"


def _tool_name(tool: Json) -> Any:
    return (optional(tool, str(tool.get("type")), DICT, "tools") or {}).get("name")


def is_forced(body: Json) -> bool:
    """Does the request demand that a tool is used?"""
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        choice = allowed.get("mode") if isinstance(allowed, dict) else None
    return choice == "required" or isinstance(choice, dict)


def force(body: Json, profile: Profile, ledger: Ledger) -> None:
    way = profile.forced_tool_choice
    if way == "ok" or not is_forced(body):
        return
    if way == "auto":
        body["tool_choice"] = "auto"
        ledger.drop("tool_choice", f"{profile.name} leaves it to the model whether it uses a tool")
    elif way == "any":
        body["tool_choice"] = "any" if body["tool_choice"] == "required" else body["tool_choice"]
    else:
        for name in ("thinking", "enable_thinking"):
            body.pop(name, None)
        if body.get("reasoning_effort") not in (None, "none"):
            ledger.drop("reasoning_effort", f"{profile.name} cannot think when made to use a tool")
        body["reasoning_effort"] = "none"


def schemas(body: Json, profile: Profile, ledger: Ledger) -> None:
    dialect = profile.schema_dialect
    if dialect == "openai":
        return
    if body.get("tools"):
        body["tools"] = [_tool_in(tool, dialect) for tool in objects(body, "tools")]
    if dialect == "mistral":
        return  # formats may be in full there
    for name, inner in (("response_format", "json_schema"), ("text", "format")):
        holder = body.get(name)
        if isinstance(holder, dict) and isinstance(holder.get(inner), dict):
            made = _in(holder[inner], "schema", dialect)
            if not profile.strict_tools:
                made = {k: v for k, v in made.items() if k != "strict"}
            body[name] = {**holder, inner: made}


def _tool_in(tool: Json, dialect: str) -> Json:
    if isinstance(tool.get("function"), dict):
        return {**tool, "function": _in(tool["function"], "parameters", dialect)}
    return _in(tool, "parameters", dialect)


def _in(holder: Json, key: str, dialect: str) -> Json:
    schema = holder.get(key)
    return {**holder, key: rewritten(schema, dialect)} if isinstance(schema, dict) else holder


def objects(holder: Json, key: str) -> list[Json]:
    """The list of objects under ``key``, or none; raises InvalidRequest for all else."""
    items = optional(holder, key, LIST, key) or []
    return [expect(item, DICT, f"{key}[{i}]") for i, item in enumerate(items)]

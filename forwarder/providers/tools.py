"""The tools of a request, and what is demanded of them, as a provider takes them."""

from __future__ import annotations

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, expect, optional
from forwarder.providers.profile import Profile
from forwarder.providers.schemas import SchemaTooLarge, rewritten


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
    names = (_tool_name(ref) for ref in objects(allowed, "tools"))
    permitted = frozenset(name for name in names if isinstance(name, str))
    body["tools"] = [tool for tool in objects(body, "tools") if _tool_name(tool) in permitted]
    body["tool_choice"] = allowed.get("mode") or "auto"


def _tool_name(tool: Json) -> str | None:
    name = (optional(tool, str(tool.get("type")), DICT, "tools") or {}).get("name")
    return name if isinstance(name, str) else None


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
    most = ledger.max_schema_nodes
    if body.get("tools"):
        body["tools"] = [
            _tool_in(tool, f"tools[{i}]", dialect, most)
            for i, tool in enumerate(objects(body, "tools"))
        ]
    if dialect == "mistral":
        return  # formats may be in full there
    for name, inner in (("response_format", "json_schema"), ("text", "format")):
        holder = body.get(name)
        if isinstance(holder, dict) and isinstance(holder.get(inner), dict):
            made = _in(holder[inner], "schema", f"{name}.{inner}", dialect, most)
            if not profile.strict_tools:
                made = {k: v for k, v in made.items() if k != "strict"}
            body[name] = {**holder, inner: made}


def _tool_in(tool: Json, path: str, dialect: str, most: int) -> Json:
    if isinstance(tool.get("function"), dict):
        made = _in(tool["function"], "parameters", f"{path}.function", dialect, most)
        return {**tool, "function": made}
    return _in(tool, "parameters", path, dialect, most)


def _in(holder: Json, key: str, path: str, dialect: str, most: int) -> Json:
    schema = holder.get(key)
    if not isinstance(schema, dict):
        return holder
    try:
        return {**holder, key: rewritten(schema, dialect, most)}
    except SchemaTooLarge as error:
        raise InvalidRequest(
            f"Invalid value for '{path}.{key}': the provider takes no references in a schema, and "
            f"{error} (limit: FORWARDER_MAX_SCHEMA_NODES).",
            param=f"{path}.{key}",
            code="invalid_json_schema",
        ) from None


def objects(holder: Json, key: str) -> list[Json]:
    """The list of objects under ``key``, or none; raises InvalidRequest for all else."""
    items = optional(holder, key, LIST, key) or []
    return [expect(item, DICT, f"{key}[{i}]") for i, item in enumerate(items)]

"""Adapts the tools of a request, their schemas and the tool choice."""

from __future__ import annotations

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, check_type, read_field
from forwarder.providers.profile import Profile
from forwarder.providers.schemas import SchemaTooLarge, rewrite_schema


def adapt_tools(body: Json, profile: Profile, loss_report: LossReport) -> None:
    if not profile.strict_tools and body.get("tools"):
        body["tools"] = [drop_strict(tool) for tool in read_objects(body, "tools")]
    choice = body.get("tool_choice")
    if (
        isinstance(choice, dict)
        and choice.get("type") == "allowed_tools"
        and not profile.allowed_tools
    ):
        keep_allowed_tools(body, read_field(choice, "allowed_tools", DICT, "tool_choice") or {})


def drop_strict(tool: Json) -> Json:
    function = read_field(tool, "function", DICT, "tools") or {}
    others = {k: v for k, v in function.items() if k != "strict"}
    return {**tool, "function": others} if function else tool


def keep_allowed_tools(body: Json, allowed: Json) -> None:
    """Emulate ``allowed_tools``: offer only the allowed tools."""
    names = (read_tool_name(ref) for ref in read_objects(allowed, "tools"))
    permitted = frozenset(name for name in names if isinstance(name, str))
    body["tools"] = [
        tool for tool in read_objects(body, "tools") if read_tool_name(tool) in permitted
    ]
    body["tool_choice"] = allowed.get("mode") or "auto"


def read_tool_name(tool: Json) -> str | None:
    name = (read_field(tool, str(tool.get("type")), DICT, "tools") or {}).get("name")
    return name if isinstance(name, str) else None


def is_tool_forced(body: Json) -> bool:
    """Return True if the request demands the use of a tool."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        choice = allowed.get("mode") if isinstance(allowed, dict) else None
    return choice == "required" or isinstance(choice, dict)


def adapt_forced_choice(body: Json, profile: Profile, loss_report: LossReport) -> None:
    treatment = profile.forced_tool_choice
    if treatment == "ok" or not is_tool_forced(body):
        return
    if treatment == "auto":
        body["tool_choice"] = "auto"
        loss_report.drop("tool_choice", f"{profile.name} cannot force the use of a tool")
    elif treatment == "any":
        if body["tool_choice"] == "required":
            body["tool_choice"] = "any"
    else:  # disable_thinking
        for name in ("thinking", "enable_thinking"):
            body.pop(name, None)
        if body.get("reasoning_effort") not in (None, "none"):
            reason = f"{profile.name} cannot reason if the use of a tool is forced"
            loss_report.drop("reasoning_effort", reason)
        body["reasoning_effort"] = "none"


def adapt_schemas(body: Json, profile: Profile, loss_report: LossReport) -> None:
    dialect = profile.schema_dialect
    if dialect == "openai":
        return
    max_nodes = loss_report.max_schema_nodes
    if body.get("tools"):
        body["tools"] = [
            adapt_tool_schema(tool, f"tools[{i}]", dialect, max_nodes)
            for i, tool in enumerate(read_objects(body, "tools"))
        ]
    if dialect == "mistral":
        return  # response formats may use all of JSON Schema there
    for name, inner in (("response_format", "json_schema"), ("text", "format")):
        holder = body.get(name)
        if isinstance(holder, dict) and isinstance(holder.get(inner), dict):
            adapted = adapt_schema(holder[inner], "schema", f"{name}.{inner}", dialect, max_nodes)
            if not profile.strict_tools:
                adapted = {k: v for k, v in adapted.items() if k != "strict"}
            body[name] = {**holder, inner: adapted}


def adapt_tool_schema(tool: Json, path: str, dialect: str, max_nodes: int) -> Json:
    function = tool.get("function")
    if isinstance(function, dict):
        path = f"{path}.function"
        return {**tool, "function": adapt_schema(function, "parameters", path, dialect, max_nodes)}
    return adapt_schema(tool, "parameters", path, dialect, max_nodes)


def adapt_schema(holder: Json, key: str, path: str, dialect: str, max_nodes: int) -> Json:
    schema = holder.get(key)
    if not isinstance(schema, dict):
        return holder
    try:
        return {**holder, key: rewrite_schema(schema, dialect, max_nodes)}
    except SchemaTooLarge as error:
        raise InvalidRequest(
            f"Invalid value for '{path}.{key}': the provider takes no references in a schema, and "
            f"{error} (limit: FORWARDER_MAX_SCHEMA_NODES).",
            param=f"{path}.{key}",
            code="invalid_json_schema",
        ) from None


def read_objects(holder: Json, key: str) -> list[Json]:
    """Return the list of objects under ``key``, empty if absent.  Raises InvalidRequest."""
    items = read_field(holder, key, LIST, key) or []
    for i, item in enumerate(items):
        if type(item) is not dict:
            check_type(item, DICT, f"{key}[{i}]")
    return list(items)

"""The tools of a request, and what is demanded of them, as a provider takes them."""

from __future__ import annotations

from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import DICT, LIST, check_type, read_field
from forwarder.providers.profile import Profile
from forwarder.providers.schemas import SchemaTooLarge, rewrite_schema


def adapt_tools(body: Json, profile: Profile, ledger: LossReport) -> None:
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
    mended = {k: v for k, v in function.items() if k != "strict"}
    return {**tool, "function": mended} if function else tool


def keep_allowed_tools(body: Json, allowed: Json) -> None:
    """Offer only the allowed tools, which comes to the same."""
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
    """Does the request demand that a tool is used?"""
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        choice = allowed.get("mode") if isinstance(allowed, dict) else None
    return choice == "required" or isinstance(choice, dict)


def adapt_forced_choice(body: Json, profile: Profile, ledger: LossReport) -> None:
    way = profile.forced_tool_choice
    if way == "ok" or not is_tool_forced(body):
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


def adapt_schemas(body: Json, profile: Profile, ledger: LossReport) -> None:
    dialect = profile.schema_dialect
    if dialect == "openai":
        return
    most = ledger.max_schema_nodes
    if body.get("tools"):
        body["tools"] = [
            adapt_tool_schema(tool, f"tools[{i}]", dialect, most)
            for i, tool in enumerate(read_objects(body, "tools"))
        ]
    if dialect == "mistral":
        return  # formats may be in full there
    for name, inner in (("response_format", "json_schema"), ("text", "format")):
        holder = body.get(name)
        if isinstance(holder, dict) and isinstance(holder.get(inner), dict):
            made = adapt_schema(holder[inner], "schema", f"{name}.{inner}", dialect, most)
            if not profile.strict_tools:
                made = {k: v for k, v in made.items() if k != "strict"}
            body[name] = {**holder, inner: made}


def adapt_tool_schema(tool: Json, path: str, dialect: str, most: int) -> Json:
    if isinstance(tool.get("function"), dict):
        made = adapt_schema(tool["function"], "parameters", f"{path}.function", dialect, most)
        return {**tool, "function": made}
    return adapt_schema(tool, "parameters", path, dialect, most)


def adapt_schema(holder: Json, key: str, path: str, dialect: str, most: int) -> Json:
    schema = holder.get(key)
    if not isinstance(schema, dict):
        return holder
    try:
        return {**holder, key: rewrite_schema(schema, dialect, most)}
    except SchemaTooLarge as error:
        raise InvalidRequest(
            f"Invalid value for '{path}.{key}': the provider takes no references in a schema, and "
            f"{error} (limit: FORWARDER_MAX_SCHEMA_NODES).",
            param=f"{path}.{key}",
            code="invalid_json_schema",
        ) from None


def read_objects(holder: Json, key: str) -> list[Json]:
    """The list of objects under ``key``, or none; raises InvalidRequest for all else."""
    items = read_field(holder, key, LIST, key) or []
    return [check_type(item, DICT, f"{key}[{i}]") for i, item in enumerate(items)]

"""Schemas that are too large are refused in every place."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.pipeline.schema_size import check_schema_sizes
from tests.helpers.check_cases import check_each

LARGE = {"type": "object", "description": "x" * 1000}
SMALL = {"type": "object"}


def make_tool(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@check_each(
    ("request_", "path"),
    [
        ({"tools": [make_tool(SMALL), make_tool(LARGE)]}, "tools[1].function.parameters"),
        ({"tools": [{"type": "function", "parameters": LARGE}]}, "tools[0].parameters"),
        (
            {"tools": [{"type": "namespace", "tools": [{"parameters": LARGE}]}]},
            "tools[0].tools[0].parameters",
        ),
        ({"functions": [{"name": "f", "parameters": LARGE}]}, "functions[0].parameters"),
        (
            {"response_format": {"json_schema": {"schema": LARGE}}},
            "response_format.json_schema.schema",
        ),
        ({"text": {"format": {"schema": LARGE}}}, "text.format.schema"),
        ({"format": LARGE}, "format"),
        ({"output_config": {"format": {"schema": LARGE}}}, "output_config.format.schema"),
        ({"output_format": {"schema": LARGE}}, "output_format.schema"),
        ({"tools": [{"name": "f", "input_schema": LARGE}]}, "tools[0].input_schema"),
    ],
)
def test_large_schema_is_refused_by_its_path(request_: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest, match="FORWARDER_MAX_SCHEMA") as refused:
        check_schema_sizes(request_, 1000)

    assert refused.value.param == path
    check_schema_sizes(request_, 2000)


@check_each(
    "request_",
    [
        {},
        {"tools": [make_tool(SMALL)] * 100},
        {"tools": [{"type": "function", "description": "x" * 2000, "parameters": SMALL}]},
        {"tools": "x" * 2000, "functions": 1, "text": [], "response_format": "json" * 500},
        {"tools": [None, 1, {"function": 1, "tools": 1, "parameters": ["x" * 2000]}]},
        {"response_format": {"json_schema": "x" * 2000}},
    ],
)
def test_other_fields_have_no_schema_limit(request_: dict[str, Any]) -> None:
    check_schema_sizes(request_, 1000)

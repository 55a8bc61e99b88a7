"""Compiles each URL rule once. Compiling takes most of the creation time of an application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from werkzeug.routing import Rule

RESULTS = ("_parts", "_trace", "_converters", "_build", "_build_unknown", "arguments")
"""Attributes that `Rule.compile` sets."""


def make_caching_compile() -> Callable[[Rule], None]:
    """Return a replacement of `Rule.compile` that copies the results of an equal rule."""
    compile_rule = Rule.compile
    compiled: dict[tuple[object, ...], dict[str, Any]] = {}

    def compile_once(rule: Rule) -> None:
        key = (rule.rule, rule.subdomain, rule.host, rule.merge_slashes, str(rule.defaults))
        if key not in compiled:
            compile_rule(rule)
            compiled[key] = {name: getattr(rule, name) for name in RESULTS}
        vars(rule).update(compiled[key])

    return compile_once

"""Parses the error messages with which providers refuse requests.

The patterns come from observed messages.  A message is understood if it contains a known phrase,
which gives the kind of complaint, or if it names the parameters that it refuses as unknown or
unsupported.  It may also refuse only one value of a parameter.  No pattern matches messages about a
value out of range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_COMPLAINT_PATTERNS: tuple[tuple[str, str, str], ...] = (
    ("developer", "", r"\bdeveloper\b|incorrect role|角色信息不正确"),
    ("system first", "",
     r"system message.{0,40}(beginning|first|start)|(only|at most) one system|multiple system"),
    ("system unknown", "", r"system (role|message)s? (is |are )?(not |un)support"),
    ("alternation", "", r"roles? must alternate|alternate (between )?user|consecutive .{0,20}role"),
    ("forced tool", "", r"tool_?choice.{0,120}(thinking|reasoning|required|object|specified|auto)"),
    ("reasoning text missing", "responses", r"reasoning_text.{0,60}(must|missing|required|passed)"),
    ("reasoning missing", "chat", r"reasoning_content.{0,40}(missing|must|required|passed)"),
    ("reasoning text refused", "responses", r"content'?: array too long.{0,60}maximum length 0"),
    ("encryption refused", "responses",
     r"encrypted.content.{0,60}(not|un)[ -]?(supported|available|allowed|known|recognized)|"
     r"(invalid|unsupported|unknown|unexpected) (value|include).{0,40}encrypted_content"),
    ("summary refused", "responses", r"must be verified to \w+ reasoning summar"),
    ("foreign reasoning", "responses",
     r"encrypted.content.{0,60}(verif|decrypt|invalid|pars)|item with id '?rs_\w+'? not found"),
    ("schema", "",
     r"moonshot flavored|(invalid|unsupported|valid).{0,40}schema|\$ref|\$schema|prefixItems"),
    ("format", "chat", r"response_?format.{0,60}(unavailable|support|invalid|must be|type)"),
    ("text only", "chat", r"(valid string|must be a string|expected a string).{0,300}content"),
    ("null content", "chat", r"(valid string|must be a string|null|none).{0,300}content|"
                             r"content.{0,40}(null|none|empty)"),
    ("stream", "",
     r"only (support|accept|availab)\w* .{0,20}stream|only stream|stream(ing)?[- ]only|non-?stream|"
     r"(must (be|have|use)|set|enable) .{0,10}stream|stream\W{0,3}(must|should|has to|needs to) be|"
     r"stream(ing)?( mode)? is required|requires? (a )?stream|[只仅]支持流式|非流式"),
    ("id length", "chat", r"tool call id.{0,80}length of 9"),
)  # fmt: skip
"""``(kind, protocol, pattern)``; an empty protocol means both."""

_COMPILED_COMPLAINTS = tuple(
    (kind, protocol, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for kind, protocol, pattern in _COMPLAINT_PATTERNS
)

_REFUSAL_PATTERN = re.compile(
    r"unsupported|unknown|unrecognized|unexpected|not (?:be )?(?:supported|permitted|allowed)|"
    r"(?:does|do) ?n.t support|does not support|do not support|extra inputs|extra_forbidden",
    re.IGNORECASE,
)
"""Matches a message that refuses the presence of a parameter."""

_NAME_PATTERN = r"[`'\"]?(?P<name>[A-Za-z_][\w.\[\]]*)[`'\"]?"

_NAME_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:parameter|argument|field|property|key|name|value|input)s?(?: supplied)?:? "
        rf"{_NAME_PATTERN}",
        r"[`'\"](?P<name>[A-Za-z_][\w.\[\]]*)[`'\"](?: is)?:? (?:not|un|does)",
        rf"supported on this model: {_NAME_PATTERN}",
        r"body -> (?P<name>\w+)",
    )
)

_PYDANTIC_LOCATION = re.compile(
    r"['\"]loc['\"]: ?[\[(]['\"]body['\"], ?(?P<path>[^\])]{0,300})[\])]"
)
"""Pydantic's location of an extra field: ``["body", "messages", 0, "user", "name"]``."""


_PARAMETER_WORD = r"(?:parameter|argument|field|property|key|input)s?"

_WHOLE_PARAMETER_PATTERN = re.compile(
    r"extra inputs|extra_forbidden|only (?:the |its )?default|"
    rf"not support (?:the )?{_PARAMETER_WORD}\b|"
    r"(?:unsupported|unknown|unrecognized|unexpected) (?:request )?(?:keyword )?"
    rf"{_PARAMETER_WORD}\b(?! value)|"
    rf"{_PARAMETER_WORD} (?:[`'\"]?[\w.\[\]]+[`'\"]? )?(?:is |are )?"
    r"(?:unsupported|unknown|unrecognized|unexpected|not (?:supported|permitted|allowed|known))",
    re.IGNORECASE,
)
"""Matches a message that refuses a parameter with any value, or with all but its default."""

_VALUE_PATTERN = re.compile(
    r"(?:unsupported|unknown|unexpected|unrecognized|invalid) (?:\w+ )?(?:value|variant|option)|"
    r"(?:supported|allowed|possible|permitted) values|(?:expected|must be|should be) one of",
    re.IGNORECASE,
)
"""Matches a message that refuses one value of a parameter."""


def is_about_value(message: str, value: object) -> bool:
    """Return True if a message that refuses a parameter is only about the value that was sent."""
    if _WHOLE_PARAMETER_PATTERN.search(message):
        return False
    return bool(_VALUE_PATTERN.search(message)) or has_quoted_value(message, value)


def has_quoted_value(message: str, value: object) -> bool:
    """Return True if the message quotes the value or a value inside it."""
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return any(has_quoted_value(message, each) for each in inner)
    if type(value) not in (str, int, float) or value == "":
        return False
    text = str(value)
    if text not in message:  # a regular expression for each value would take long
        return False
    return re.search(rf"(?<![\w.]){re.escape(text)}(?!\w|\.\d)", message) is not None


def find_complaint_kinds(message: str, protocol: str) -> Iterator[str]:
    """Yield the kinds of complaint that a message may be, the most likely first."""
    for kind, only_protocol, pattern in _COMPILED_COMPLAINTS:
        if only_protocol in ("", protocol) and pattern.search(message):
            yield kind


def find_refused_parameters(message: str, param: str | None) -> list[tuple[str, ...]]:
    """Return the paths of the parameters that a message refuses; empty if it refuses none."""
    if not _REFUSAL_PATTERN.search(message):
        return []
    places = [match["path"] for match in _PYDANTIC_LOCATION.finditer(message)]
    if places:
        return [tuple(re.findall(r"[A-Za-z_$]\w*", place)) for place in places]
    if param:
        return [split_path(param)]
    names = [m["name"] for pattern in _NAME_PATTERNS for m in pattern.finditer(message)]
    return list(dict.fromkeys(split_path(name) for name in names))


def split_path(name: str) -> tuple[str, ...]:
    """Split a path such as ``messages[1].reasoning`` into its names, converted to snake case."""
    return tuple(_snake(step) for step in re.findall(r"[A-Za-z_$]\w*", name)) or (name,)


def _snake(name: str) -> str:
    if name == "additionalProperties":
        return name
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: "_" + match[1].lower(), name)

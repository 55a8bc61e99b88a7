"""The settings as a Markdown page, from ``.env.example``.

That file has every setting with its default and a description. Tests compare it with the
declarations in ``forwarder/config``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from forwarder.config.settings import UPSTREAM_SETTINGS
from tools.docgen.markdown import format_code

EXAMPLE = Path(__file__).parents[2] / ".env.example"
_TITLE = re.compile(r"# ==== (.+?) =+\n")
_SETTING = re.compile(r"#(?P<name>[A-Z][A-Z0-9_]*)=(?P<default>.*)")
_WORDS_TO_QUOTE = re.compile(r"<NAME>_[A-Z_]+|\b[A-Z][A-Z0-9]*_[A-Z0-9_]+(?:=[^\s,.;:)]+)?")
_UPSTREAM = {f"CHAT_{row.suffix}" for row in UPSTREAM_SETTINGS}


def render_settings() -> str:
    """Return every setting under the title of its section, with default and description."""
    titles_and_texts = _TITLE.split(EXAMPLE.read_text(encoding="utf-8"))[1:]
    sections = zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True)
    return "\n\n".join(
        part
        for title, text in sections
        if _SETTING.search(text)
        for part in (f"## {title}", *_render_section(text))
    )


def _render_section(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\n+", text.strip()):
        lines = paragraph.splitlines()
        settings = [match for line in lines if (match := _SETTING.fullmatch(line))]
        if settings:
            yield "### " + format_code(_format_name(match["name"]) for match in settings)
            yield _render_defaults([match["default"] for match in settings])
        yield from _render_description([line for line in lines if not _SETTING.fullmatch(line)])


def _format_name(name: str) -> str:
    """Return the name of a setting; the example has upstream settings as ``CHAT_…``."""
    return name.replace("CHAT_", "<NAME>_") if name in _UPSTREAM else name


def _render_defaults(defaults: list[str]) -> str:
    shown = [f"`{default}`" if default else "not set" for default in defaults]
    return f"Default: {', '.join(shown)}"


def _render_description(comments: list[str]) -> Iterator[str]:
    """Yield paragraphs of text. Indented lines become a block of code."""
    lines = [comment.removeprefix("#").removeprefix(" ") for comment in comments]
    for is_indented, group in _group_by_indentation(lines):
        if is_indented:
            yield "```text\n" + dedent("\n".join(group)) + "\n```"
        elif any(group):
            yield _quote_words(" ".join(" ".join(group).split()))


def _group_by_indentation(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    group: list[str] = []
    for line in lines:
        ends_group = not line or (group and line.startswith("  ") != group[0].startswith("  "))
        if group and ends_group:
            yield group[0].startswith("  "), group
            group = []
        if line:
            group.append(line)
    if group:
        yield group[0].startswith("  "), group


def _quote_words(text: str) -> str:
    """Return the text with variable names as code and all other Markdown syntax escaped."""
    parts: list[str] = []
    end = 0
    for match in re.finditer(rf"`[^`]+`|{_WORDS_TO_QUOTE.pattern}", text):
        parts += [_escape(text[end : match.start()]), f"`{match[0].strip('`')}`"]
        end = match.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return re.sub(r"([*_<\[\]])", r"\\\1", text)

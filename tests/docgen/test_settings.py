"""The page of settings lists every setting with its default and its description."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwarder.config.gunicorn_conf import SETTINGS as GUNICORN_SETTINGS
from forwarder.config.settings import SETTINGS, UPSTREAM_SETTINGS
from tools.docgen import settings
from tools.docgen.settings import render_settings

DEFAULTS = {
    **{f"FORWARDER_{row.suffix}": row.default for row in SETTINGS},
    **{f"<NAME>_{row.suffix}": row.default for row in UPSTREAM_SETTINGS},
    **{row.variable: row.default for row in GUNICORN_SETTINGS},
    "FORWARDER_DOTENV": ".env",
}


def read_defaults(page: str) -> dict[str, str]:
    """Return the default of each setting, from the headings and the lines below them."""
    defaults: dict[str, str] = {}
    for part in page.split("\n### ")[1:]:
        heading, default = part.split("\n\n")[:2]
        names = heading.replace("`", "").split(", ")
        values = default.removeprefix("Default: ")
        value_list = [values.strip("`")] if len(names) == 1 else values.replace("`", "").split(", ")
        defaults |= dict(zip(names, value_list, strict=True))
    return defaults


def test_page_has_every_setting_with_its_default() -> None:
    expected = {name: default or "not set" for name, default in DEFAULTS.items()}

    assert read_defaults(render_settings()) == expected


def test_every_setting_has_a_description() -> None:
    for part in render_settings().split("\n### ")[1:]:
        assert len(part.split("\n\n")) > 2, part


def test_example_is_rendered_as_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = tmp_path / "example"
    example.write_text(
        "# A title of the file\n\n\n"
        "# ==== Start =====\n#\n# No settings here.\n\n"
        "# ==== Names =====\n\n"
        "# Names, by pattern (a-*), as `b*` or CHAT_MODELS=x.\n#   one   a\n#   two   b\n# More.\n"
        "#CHAT_MODELS=\n\n"
        "# Both.\n#FORWARDER_FETCH=on\n#FORWARDER_STRICT=false\n"
    )
    monkeypatch.setattr(settings, "EXAMPLE", example)

    assert render_settings().split("\n\n") == [
        "## Names",
        "### `<NAME>_MODELS`",
        "Default: not set",
        "Names, by pattern (a-\\*), as `b*` or `CHAT_MODELS=x`.",
        "```text\none   a\ntwo   b\n```",
        "More.",
        "### `FORWARDER_FETCH`, `FORWARDER_STRICT`",
        "Default: `on`, `false`",
        "Both.",
    ]

"""The README and the pages in ``docs/``: names that exist, links that lead somewhere, nothing left
out."""

from __future__ import annotations

import ast
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forwarder.app import create_app
from forwarder.config import gunicorn_conf
from forwarder.config.settings import DOTENV_VARIABLE, SETTINGS, UPSTREAM_SETTINGS, Settings
from forwarder.core import errors
from forwarder.protocols.client_reasoning_style import KNOWN_CLIENTS
from forwarder.protocols.registry import ALL_STYLES
from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")]
CODE = [path.read_text(encoding="utf-8") for path in (ROOT / "forwarder").rglob("*.py")]
README_LIMIT = 8 * 1024

every_page = check_each("path", [*TEXTS[:3], *PAGES], ids=lambda path: str(path.relative_to(ROOT)))


def read_text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def find_unknown_settings(text: str) -> set[str]:
    """Names that look like settings but are not; ``FORWARDER_BREAKER_…`` is a beginning."""
    suffixes = {row.suffix for row in UPSTREAM_SETTINGS}
    settings = {DOTENV_VARIABLE} | {f"FORWARDER_{row.suffix}" for row in SETTINGS}
    settings |= {row.variable for row in gunicorn_conf.SETTINGS}
    settings |= {
        f"{name}_{suffix}" for name in ("CHAT", "RESPONSES", "<NAME>") for suffix in suffixes
    }
    settings |= {"GUNICORN_CMD_ARGS"}  # gunicorn's own
    names = re.findall(r"<NAME>_[A-Z_]+|\b(?:FORWARDER|GUNICORN|CHAT|RESPONSES)_[A-Z_]+", text)
    return {
        name
        for name in names
        if name not in settings
        and not (name.endswith("_") and any(each.startswith(name) for each in settings))
    }


def test_search_finds_unknown_settings() -> None:
    text = "FORWARDER_FETCH <NAME>_BREAKER_… <NAME>_NO_SUCH FORWARDER_NO_SUCH FORWARDER_NO_…"

    assert find_unknown_settings(text) == {"<NAME>_NO_SUCH", "FORWARDER_NO_SUCH", "FORWARDER_NO_"}


@every_page
def test_every_setting_on_a_page_exists(path: Path) -> None:
    assert find_unknown_settings(path.read_text(encoding="utf-8")) == set()


@every_page
def test_every_link_leads_to_a_file(path: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert path.parent.joinpath(link).is_file(), link


@every_page
def test_files_of_the_code_named_on_pages_exist(path: Path) -> None:
    paths = re.findall(r"`((?:forwarder|tests|tools|bench)/[\w/.]+)`", path.read_text("utf-8"))

    assert [name for name in paths if not (ROOT / name).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_LIMIT


@check_each("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_begins_with_a_sentence(path: Path) -> None:
    text = re.sub(
        r'^--8<-- "(.+)"$',
        lambda include: read_text(include[1]),
        path.read_text("utf-8"),
        flags=re.MULTILINE,
    )

    title, first_line, *_ = [line for line in text.splitlines() if line.strip()]
    assert title.startswith("# ")
    assert re.match(r"[A-Z`*][^`].{40}", first_line), first_line


def test_navigation_has_every_page_once() -> None:
    def find_files(entries: Any) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                if isinstance(value, str):
                    yield value
                else:
                    yield from find_files(value)

    navigation = yaml.safe_load(read_text("mkdocs.yml"))["nav"]

    assert sorted(find_files(navigation)) == [path.relative_to(DOCS).as_posix() for path in PAGES]


def test_site_loads_nothing_from_other_servers() -> None:
    config = yaml.safe_load(read_text("mkdocs.yml"))

    assert config["theme"]["font"] is False
    assert {"repo_url", "extra_javascript"}.isdisjoint(config)


def test_toml_and_json_examples_are_valid() -> None:
    examples = [
        (kind, text)
        for path in PAGES
        for kind, text in re.findall(r"```(\w+)\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    ]

    for kind, text in examples:
        if kind == "toml":
            tomllib.loads(text)
        elif kind == "json":
            yaml.safe_load(text)
        elif kind == "python":
            ast.parse(text)
    assert {"toml", "json", "python"} <= {kind for kind, _ in examples}


def test_architecture_page_has_every_package() -> None:
    section = read_text("docs/architecture.md").partition("## Packages")[2].partition("\n## ")[0]

    packages = {path.parent.name for path in (ROOT / "forwarder").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == packages


# -- reference -----------------------------------------------------------------------------------


def test_reasoning_page_names_every_style_and_every_known_client() -> None:
    page = read_text("docs/reasoning.md")
    clients = page.partition("### Clients that `auto` recognises")[2].partition("\n## ")[0]

    assert all(client.name.partition(",")[0] in clients for client in KNOWN_CLIENTS)
    assert all(f"`{style}`" in page for style in ALL_STYLES)


def find_error_classes(base: type[errors.ForwarderError]) -> Iterator[type[errors.ForwarderError]]:
    for each in base.__subclasses__():
        yield each
        yield from find_error_classes(each)


def test_errors_page_has_every_error_with_its_status() -> None:
    page = read_text("docs/reference/errors.md")
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", page, re.MULTILINE)
    documented = {
        (status, code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)
    }

    errors_in_code = {
        (str(each.status), each.code)
        for each in find_error_classes(errors.ForwarderError)
        if each.code is not None and each.__module__ == "forwarder.core.errors"
    }
    assert len(errors_in_code) > 20
    assert errors_in_code <= documented


def test_errors_page_has_every_code_that_is_raised() -> None:
    page = read_text("docs/reference/errors.md")

    codes = {code for text in CODE for code in re.findall(r"\bcode ?= ?\"(\w+)\"", text)}
    assert len(codes) > 30
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_headers_page_has_every_header_of_the_forwarder() -> None:
    page = read_text("docs/reference/headers.md").lower()

    headers = {name for text in CODE for name in re.findall(r"\bX-Forwarder-\w+", text)}
    assert len(headers) >= 5
    assert {name for name in headers if f"`{name.lower()}" not in page} == set()


def test_logs_page_has_every_event() -> None:
    page = read_text("docs/reference/logs.md")

    events = {name for text in CODE for name in re.findall(r"\"event\": \"(\w+)\"", text)}
    assert len(events) >= 10
    assert {name for name in events if f"`{name}`" not in page} == set()


def test_logs_page_has_every_field_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    client = create_app(Settings.from_env({})).test_client()
    logging.getLogger("forwarder").propagate = True
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
    with caplog.at_level("INFO", "forwarder"):
        client.post("/v1/chat/completions", json=body, buffered=True)
        client.post("/v1/chat/completions", json={"model": 1}, buffered=True)
    logging.getLogger("forwarder").propagate = False

    fields = {
        name for record in caplog.records if isinstance(record.msg, dict) for name in record.msg
    }
    assert {"id", "route", "status", "upstream", "duration_ms", "dropped", "error"} <= fields
    page = read_text("docs/reference/logs.md")
    assert {name for name in fields if f"`{name}`" not in page} == set()

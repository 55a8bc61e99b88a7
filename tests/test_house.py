"""The walls of the house: who may import what, and that every room has its tests."""

from __future__ import annotations

import ast
import functools
import graphlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.translate import chat_over_responses, ollama_over_chat, responses_over_chat

TESTS = Path(__file__).parent
HOUSE = TESTS.parent / "forwarder"
MODULES = sorted(HOUSE.rglob("*.py"))

every_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(HOUSE))
)

OWNERS = {
    "openai": ("upstream.py",),
    "flask": ("app.py", "cli/", "routes/"),
    "werkzeug": ("app.py", "routes/"),
    "gevent": ("network/",),
    "geventhttpclient": ("network/",),
    "gunicorn": ("network/",),
    "cryptography": ("seal.py",),
    "brotli": ("content_encoding.py",),
    "backports": ("content_encoding.py",),
    "compression": ("content_encoding.py",),
    "dotenv": ("config/",),
    "prometheus_client": ("config/gunicorn_conf.py", "watching/"),
    "opentelemetry": ("watching/",),
    "flask_limiter": ("app.py",),
    "flask_sock": ("routes/",),
    "simple_websocket": ("routes/",),
    "jsonschema": ("emulations/",),
    "jsonschema_specifications": ("emulations/",),
    "referencing": ("emulations/",),
    "limits": ("ratelimit.py",),
    "redis": ("ratelimit.py",),
    "sqlalchemy": ("store/", "state/"),
    "alembic": ("store/",),
    "psycopg": ("store/",),
}
"""Library -> the only rooms that know it."""

PURE = frozenset(
    {"__future__", "collections", "dataclasses", "hashlib", "itertools", "json", "re", "typing"}
)
"""What the translators may have of the standard library: nothing that does anything."""

PURE_ROOMS = (
    "forwarder.translate",
    "forwarder.errors",
    "forwarder.error_kinds",
    "forwarder.mint",
    "forwarder.url_secrets",
    "forwarder.pacing",
)
"""What the translators may have of the house."""

ELSEWHERE = {
    "cli/context.py": "cli/test_models.py",
    "config/parsers.py": "test_config.py",
    "path.py": "test_bridge.py",
}
"""Modules that are tested through another, and where."""


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = frozenset(map(name_of, MODULES))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.update(_from(node))
    return frozenset(found)


def _from(node: ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in NAMES else str(node.module)


def within(module: str, rooms: tuple[str, ...]) -> bool:
    """Does a dotted name lie in one of these rooms?"""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@every_module
def test_a_library_is_known_only_in_its_room(path: Path) -> None:
    place = str(path.relative_to(HOUSE))
    for module in imports(path):
        owners = OWNERS.get(module.partition(".")[0])
        assert owners is None or place.startswith(owners), f"{place} imports {module}"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if "translate" in p.parts],
    ids=lambda path: str(path.relative_to(HOUSE)),
)
def test_a_translator_is_pure(path: Path) -> None:
    for module in imports(path):
        pure = module.partition(".")[0] in PURE or within(module, PURE_ROOMS)
        assert pure, f"{path.relative_to(HOUSE)} imports {module}"


TRANSLATIONS = ("responses_over_chat", "chat_over_responses", "ollama_over_chat")


def test_no_translation_knows_another() -> None:
    rooms = [HOUSE / "translate" / name for name in TRANSLATIONS]
    for room, other in itertools.permutations(rooms, 2):
        for path in room.glob("*.py"):
            assert not any(within(module, (name_of(other),)) for module in imports(path))


def test_all_translations_have_the_same_doors() -> None:
    for translation in (responses_over_chat, chat_over_responses, ollama_over_chat):
        assert set(translation.__all__) == {"translate_request", "translate_stream"}


def test_nobody_imports_a_room_that_imports_them() -> None:
    graph = {name_of(path): imports(path) & NAMES for path in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("forwarder.errors") < order.index("forwarder.translate")
    assert order.index("forwarder.translate") < order.index("forwarder.bridge")
    assert order.index("forwarder.bridge") < order.index("forwarder.app")


@every_module
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    read = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    ]
    if not str(path.relative_to(HOUSE)).startswith("config"):
        assert not {"environ", "getenv"} & set(read)
        assert "os.environ" not in imports(path)


def has_logic(path: Path) -> bool:
    """Is there anything in a module that could be wrong?"""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree))


def homes_of(path: Path) -> list[Path]:
    """Where the tests of a module may be; those of a package under its name, in it or beside it."""
    place = TESTS / path.relative_to(HOUSE).parent
    if path.name != "__init__.py":
        return [place / f"test_{path.name}"]
    return [place / f"test_{place.name}.py", place.parent / f"test_{place.name}.py"]


@every_module
def test_every_module_with_logic_has_its_tests(path: Path) -> None:
    place = str(path.relative_to(HOUSE))
    own = any(test.exists() for test in homes_of(path))
    if place in ELSEWHERE:
        assert not own, f"{place} has tests of its own now"
        assert (TESTS / ELSEWHERE[place]).exists()
    else:
        assert own or not has_logic(path), f"{place} has no tests"

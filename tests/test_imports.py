"""Which package may import which, that every module has its tests, and class names are unique."""

from __future__ import annotations

import ast
import functools
import graphlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forwarder.translation import (
    chat_over_responses,
    messages_over_chat,
    messages_over_responses,
    ollama_over_chat,
    responses_over_chat,
)
from tests.helpers.check_cases import check_each

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "forwarder"
MODULES = sorted(PACKAGE.rglob("*.py"))

every_module = check_each("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))

OWNERS = {
    "openai": ("upstream/connection.py", "upstream/errors.py", "upstream/sdk_client.py"),
    "flask": ("app.py", "server/", "cli/", "console/"),
    "werkzeug": ("app.py", "server/", "console/"),
    "gevent": ("core/", "hosted_tools/", "upstream/transport/", "server/", "console/"),
    "mcp": ("hosted_tools/",),
    "mcp_types": ("hosted_tools/",),
    "anyio": ("hosted_tools/",),
    "asyncio": ("hosted_tools/",),
    "trafilatura": ("text_extraction/extract.py",),
    "geventhttpclient": ("upstream/transport/",),
    "gunicorn": ("server/", "cli/"),
    "cryptography": ("core/encryption.py",),
    "brotli": ("server/content_encoding.py",),
    "backports": ("server/content_encoding.py",),
    "compression": ("server/content_encoding.py",),
    "dotenv": ("config/",),
    "prometheus_client": ("config/gunicorn_conf.py", "observability/"),
    "opentelemetry": ("observability/",),
    "flask_sock": ("server/",),
    "simple_websocket": ("server/",),
    "jsonschema": ("middleware/",),
    "jsonschema_specifications": ("middleware/",),
    "referencing": ("middleware/",),
    "limits": ("server/rate_limit.py",),
    "redis": ("server/rate_limit.py", "upstream/resilience/shared_state.py"),
    "sqlalchemy": ("storage/db/", "storage/repositories/"),
    "alembic": ("storage/db/",),
    "psycopg": ("storage/db/",),
    "pypdf": ("text_extraction/extract.py",),
    "docx": ("text_extraction/extract.py",),
    "lxml": ("text_extraction/extract.py",),
}
"""Library -> the only packages or modules that import it."""

PURE = frozenset(
    {
        "__future__",
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "hashlib",
        "itertools",
        "json",
        "math",
        "re",
        "types",
        "typing",
    }
)
"""What translators may import of the standard library: nothing with side effects."""

FRAMINGS = ("framing.py",)
"""Modules of `protocols` that read and write bytes."""

PURE_PACKAGES = (
    "forwarder.translation",
    "forwarder.protocols",
    "forwarder.core.base64_text",
    "forwarder.core.error_classification",
    "forwarder.core.error_kinds",
    "forwarder.core.errors",
    "forwarder.core.ids",
    "forwarder.core.paced_iteration",
    "forwarder.core.translation_context",
    "forwarder.core.types",
    "forwarder.core.url_secrets",
    "forwarder.core.validate",
)
"""What translators may import of the forwarder."""

ELSEWHERE = {
    "core/error_kinds.py": "core/test_error_classification.py",
    "protocols/types.py": "protocols/test_unfold.py",
    "config/parsers.py": "config/test_settings.py",
    "pipeline/attempt.py": "pipeline/test_gateway.py",
    "pipeline/upstream_calls.py": "pipeline/test_gateway.py",
    "cli/context.py": "cli/test_main.py",
    "server/replay_application.py": "cli/test_replay.py",
    "openapi/errors.py": "openapi/test_document.py",
    "openapi/operation.py": "openapi/test_document.py",
    "openapi/openai_operations.py": "openapi/test_document.py",
    "openapi/ollama_operations.py": "openapi/test_document.py",
    "openapi/forwarder_operations.py": "openapi/test_document.py",
    "openapi/openai_schemas.py": "openapi/test_traffic.py",
    "openapi/ollama_schemas.py": "openapi/test_traffic.py",
    "openapi/forwarder_schemas.py": "openapi/test_traffic.py",
    "hosted_tools/request_preparation.py": "hosted_tools/test_responses_loop.py",
    "hosted_tools/history.py": "hosted_tools/test_responses_loop.py",
    "hosted_tools/kind_table.py": "hosted_tools/test_responses_loop.py",
    "hosted_tools/mcp_kind.py": "hosted_tools/test_responses_loop.py",
    "hosted_tools/mcp_session.py": "hosted_tools/test_mcp_client.py",
    "hosted_tools/mcp_stdio.py": "hosted_tools/test_mcp_client.py",
    "hosted_tools/mcp_tools.py": "hosted_tools/test_responses_loop.py",
    "hosted_tools/tool_context.py": "hosted_tools/test_file_search.py",
}
"""Modules that are tested through another, and where."""


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = frozenset(map(name_of, MODULES))


class Uses(NamedTuple):
    """What the code of a module uses and defines, wherever in it.  Names are dotted."""

    imports: frozenset[str]
    calls: frozenset[str]
    attributes: frozenset[str]
    classes: frozenset[str]
    has_functions: bool


@functools.cache
def read_uses(path: Path) -> Uses:
    uses: dict[str, set[str]] = {
        kind: set() for kind in ("imports", "calls", "attributes", "classes")
    }
    has_functions = False
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            uses["imports"].update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            uses["imports"].update(_list_imported(node))
        elif isinstance(node, ast.Call):
            uses["calls"].add(read_dotted_name(node.func))
        elif isinstance(node, ast.Attribute):
            uses["attributes"].add(read_dotted_name(node))
        elif isinstance(node, ast.ClassDef):
            uses["classes"].add(node.name)
        elif isinstance(node, ast.FunctionDef):
            has_functions = True
    return Uses(*map(frozenset, uses.values()), has_functions)


def read_dotted_name(node: ast.expr) -> str:
    """Return an expression of names and dots; anything else in it is an empty name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    names.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(names))


def imports(path: Path) -> frozenset[str]:
    """The modules that a module imports, wherever in it."""
    return read_uses(path).imports


def _list_imported(node: ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in NAMES else str(node.module)


def is_within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of these packages or lies in one."""
    return any(module == name or module.startswith(f"{name}.") for name in packages)


@every_module
def test_libraries_are_imported_only_by_their_owners(path: Path) -> None:
    module_path = str(path.relative_to(PACKAGE))
    for module in imports(path):
        owners = OWNERS.get(module.partition(".")[0])
        assert owners is None or module_path.startswith(owners), f"{module_path} imports {module}"


QUERIES = (
    "database.read",
    "database.write",
    "database.write_if_possible",
    "database.write_without_timeout",
)


@every_module
def test_only_repositories_query_the_database(path: Path) -> None:
    """Other modules call the named operations of `storage.repositories`."""
    queries = [name for name in read_uses(path).attributes if name.endswith(QUERIES)]
    module_path = str(path.relative_to(PACKAGE))
    assert module_path.startswith(OWNERS["sqlalchemy"]) or not queries, f"{module_path}: {queries}"


@check_each(
    "path",
    [
        path
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] in ("translation", "protocols")
        and path.name not in FRAMINGS
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_translation_is_pure(path: Path) -> None:
    for module in imports(path):
        pure = module.partition(".")[0] in PURE or is_within(module, PURE_PACKAGES)
        assert pure, f"{path.relative_to(PACKAGE)} imports {module}"


TRANSLATIONS = (
    responses_over_chat,
    chat_over_responses,
    ollama_over_chat,
    messages_over_chat,
    messages_over_responses,
)


def test_no_translation_imports_another() -> None:
    folders = [Path(str(translation.__file__)).parent for translation in TRANSLATIONS]
    for folder, other in itertools.permutations(folders, 2):
        for path in folder.glob("*.py"):
            assert not any(is_within(module, (name_of(other),)) for module in imports(path))


def test_all_translations_have_the_same_functions() -> None:
    for translation in TRANSLATIONS:
        assert set(translation.__all__) == {"translate_request", "translate_stream"}


def test_modules_import_each_other_without_cycles() -> None:
    graph = {name_of(path): imports(path) & NAMES for path in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


LAYERS = (
    "core",
    "protocols",
    "providers",
    "translation",
    "config",
    "context",
    "text_extraction",
    "demo",
    "upstream",
    "middleware",
    "hosted_tools",
    "storage",
    "vector_stores",
    "models",
    "observability",
    "usage",
    "client_keys",
    "services",
    "pipeline",
    "server",
    "console",
    "openapi",
    "cli",
)
"""The packages and the composition root, lowest first: each imports only those before it."""


def test_packages_import_only_lower_layers() -> None:
    packages = {path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE}
    assert packages | {"services"} == set(LAYERS)
    for path in MODULES:
        package = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for module in imports(path) & NAMES:
            other = module.split(".")[1] if "." in module else package
            if package in LAYERS and other in LAYERS:
                lower = LAYERS.index(other) <= LAYERS.index(package)
                assert lower, f"{path.relative_to(PACKAGE)} imports {module}"


COMPOSERS = ("app.py", "cli/", "services.py")


@every_module
def test_only_the_application_and_commands_build_services(path: Path) -> None:
    if not str(path.relative_to(PACKAGE)).startswith(COMPOSERS):
        assert not {"Services", "Services.build", "open_database"} & read_uses(path).calls


@every_module
def test_only_config_reads_the_environment(path: Path) -> None:
    if not str(path.relative_to(PACKAGE)).startswith("config"):
        assert not {"os.environ", "os.getenv"} & read_uses(path).attributes
        assert "os.environ" not in imports(path)


def test_no_two_classes_have_one_name() -> None:
    names = Counter(name for path in MODULES for name in read_uses(path).classes)
    assert [name for name, count in names.items() if count > 1] == []


def has_logic(path: Path) -> bool:
    """Is there anything in a module that could be wrong?"""
    return read_uses(path).has_functions


def list_test_files(path: Path) -> list[Path]:
    """Where the tests of a module may be; those of a package under its name, in it or beside it."""
    folder = TESTS / path.relative_to(PACKAGE).parent
    if path.name != "__init__.py":
        return [folder / f"test_{path.name}"]
    return [folder / f"test_{folder.name}.py", folder.parent / f"test_{folder.name}.py"]


@every_module
def test_every_module_with_logic_has_its_tests(path: Path) -> None:
    module_path = str(path.relative_to(PACKAGE))
    has_tests = any(test.exists() for test in list_test_files(path))
    if module_path in ELSEWHERE:
        assert not has_tests, f"{module_path} has tests of its own now"
        assert (TESTS / ELSEWHERE[module_path]).exists()
    else:
        assert has_tests or not has_logic(path), f"{module_path} has no tests"

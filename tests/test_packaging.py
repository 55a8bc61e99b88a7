"""The package's metadata, and the files that pin its dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[1]
RUNTIME, OTEL, DEV = "requirements.txt", "requirements-otel.txt", "requirements-dev.txt"
DOCS = "requirements-docs.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11.0", "3.11.7", "3.12.0", "3.13.0", "3.14.0")


def read_requirements(name: str) -> list[Requirement]:
    """The requirements of a file, with comments, hashes and line continuations left out."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*|\s--hash=\S+", "", line).strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line]


def pin(requirements: list[Requirement], python: str) -> dict[str, str]:
    """Name -> version of the packages that are installed on Linux with this Python."""
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    versions: dict[str, str] = {}
    for each in requirements:
        if each.marker is None or each.marker.evaluate(environment):
            (specifier,) = each.specifier
            assert specifier.operator == "==", each
            assert canonicalize_name(each.name) not in versions, each
            versions[canonicalize_name(each.name)] = specifier.version
    return versions


def test_package_dependencies_come_from_the_requirements_files() -> None:
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]

    assert set(PROJECT["project"]["dynamic"]) == {
        "version",
        "dependencies",
        "optional-dependencies",
    }
    assert dynamic["dependencies"] == {"file": [RUNTIME]}
    assert dynamic["optional-dependencies"] == {
        "otel": {"file": [OTEL]},
        "dev": {"file": [DEV]},
        "docs": {"file": [DOCS]},
    }


@check_each("name", [RUNTIME, OTEL, DEV, DOCS])
def test_a_requirements_file_is_a_list_of_pinned_packages(name: str) -> None:
    """setuptools reads it too, which knows no options such as -r and -c."""
    assert read_requirements(name)
    for python in PYTHONS:
        pin(read_requirements(name), python)


@check_each("python", PYTHONS)
@check_each(
    ("lock", "names"),
    [("requirements.lock", [RUNTIME]), ("constraints.txt", [RUNTIME, OTEL, DEV, DOCS])],
)
def test_a_lock_covers_the_requirements(lock: str, names: list[str], python: str) -> None:
    locked = pin(read_requirements(lock), python)

    for name in names:
        assert pin(read_requirements(name), python).items() <= locked.items(), "run .ci/lock"


@check_each("python", PYTHONS)
def test_both_locks_agree(python: str) -> None:
    locked = pin(read_requirements("requirements.lock"), python)

    assert locked.items() <= pin(read_requirements("constraints.txt"), python).items()


def test_the_lock_has_hashes_for_every_package_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]

    assert lines
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines)
    for name in ("requirements.lock", "constraints.txt"):
        assert not re.search(r"://|^-", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readme_s_commands_install_with_the_constraints() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    serve, test = re.findall(r"pip install -q (.+?) && \.venv/bin/(?:gunicorn|python)", readme)

    assert serve == f"-r {RUNTIME} -c constraints.txt"
    assert test == f"-r {RUNTIME} -r {DEV} -c constraints.txt"


def test_files_named_by_the_project_exist() -> None:
    assert PROJECT["project"]["scripts"] == {"forwarder": "forwarder.cli.main:main"}
    for name in (*PROJECT["project"]["license-files"], PROJECT["project"]["readme"]):
        assert (ROOT / name).is_file()


def test_a_wheel_contains_all_files_of_the_package() -> None:
    """setuptools finds Python files beside an ``__init__.py``, and the listed data files."""
    package_data = PROJECT["tool"]["setuptools"]["package-data"]
    folders = {name: ROOT / name.replace(".", "/") for name in package_data}
    data = {
        f
        for name, folder in folders.items()
        for each in package_data[name]
        for f in folder.glob(each)
    }

    for path in (ROOT / "forwarder").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path not in data:
            assert path.suffix == ".py"
            assert (path.parent / "__init__.py").is_file()
    assert {path.name for path in data} >= {"sdk_schemas.json", "index.html", "LICENSE"}

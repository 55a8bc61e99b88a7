"""The files for containers, systemd and Kubernetes: settings that exist, and limits that agree."""

from __future__ import annotations

import re
from configparser import RawConfigParser
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from forwarder import __version__
from forwarder.app import create_app
from forwarder.config import gunicorn_conf
from forwarder.config.settings import DOTENV_VARIABLE, SETTINGS, UPSTREAM_SETTINGS, Settings
from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS: dict[str, Any] = {
    each["kind"]: each
    for each in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
UNIT_TEXT = (ROOT / "deploy/forwarder.service").read_text(encoding="utf-8")

FILES = ["Dockerfile", "compose.yaml", *(f"deploy/{p.name}" for p in (ROOT / "deploy").iterdir())]
VARIABLES = (
    {DOTENV_VARIABLE}
    | {f"FORWARDER_{row.suffix}" for row in SETTINGS}
    | {f"{name}_{row.suffix}" for name in ("CHAT", "RESPONSES") for row in UPSTREAM_SETTINGS}
    | {row.variable for row in gunicorn_conf.SETTINGS}
)
SECRETS = {
    "CHAT_API_KEY": "sk-1",
    "FORWARDER_API_KEYS": "a",
    "FORWARDER_ADMIN_KEYS": "b",
    "FORWARDER_METRICS_KEY": "c",
    "FORWARDER_SECRET_KEY": "d" * 44,
    "FORWARDER_DATABASE_URL": "postgresql://user:password@host/forwarder",
}


def find_variables(text: str) -> set[str]:
    return set(re.findall(r"\b(?:FORWARDER|GUNICORN|CHAT|RESPONSES|WEB)_[A-Z_]+\b", text))


def read_gunicorn_settings(environment: dict[str, str]) -> dict[str, str | int]:
    return gunicorn_conf.read_settings(environment, pytest.fail)


def read_unit() -> dict[str, str]:
    """The last value of each key of the service section."""
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT_TEXT)
    return dict(parser["Service"])


def test_the_search_for_variables_finds_unknown_ones() -> None:
    assert find_variables("A: FORWARDER_NO_SUCH $GUNICORN_BIND") == {
        "FORWARDER_NO_SUCH",
        "GUNICORN_BIND",
    }


@check_each("name", FILES)
def test_every_variable_is_a_setting(name: str) -> None:
    found = find_variables((ROOT / name).read_text(encoding="utf-8"))

    assert found
    assert found <= VARIABLES


# -- the image -------------------------------------------------------------------------------------


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    *_, ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").partition("\n*\n")
    kept = [line[1:] for line in ignored.splitlines() if line.startswith("!")]

    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(sources) == 16
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in kept), source


def test_the_image_installs_the_lock_and_runs_as_an_ordinary_user() -> None:
    assert "--require-hashes --only-binary :all: -r requirements.lock" in DOCKERFILE
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsNonRoot"]) == (
        10001,
        True,
    )


def test_every_probe_asks_for_a_page_that_is_there() -> None:
    routes = {rule.rule for rule in create_app(Settings.from_env({})).url_map.iter_rules()}
    probes = [CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe")]
    ready = CONTAINER["readinessProbe"]["httpGet"]
    (image,) = re.findall(r"http://127\.0\.0\.1:8000(/\w+)", DOCKERFILE)

    assert {image, *(each["path"] for each in probes)} == {"/health"} <= routes
    assert ready["path"] == "/ready"
    assert ready["path"] in routes


# -- compose ---------------------------------------------------------------------------------------


def test_the_settings_of_compose_are_valid() -> None:
    service = COMPOSE["services"]["forwarder"]
    environment = {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", "secret" * 5, value)
        for name, value in service["environment"].items()
    }

    settings = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1", **environment})

    assert settings.database_url.startswith("postgresql://forwarder:secret")
    assert set(service["depends_on"]) == {"postgres", "redis"}
    for other in service["depends_on"]:
        assert COMPOSE["services"][other]["healthcheck"]
    grace = read_gunicorn_settings(environment)["graceful_timeout"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= int(grace) + 10


# -- systemd ---------------------------------------------------------------------------------------


def test_systemd_waits_for_longer_than_running_answers_have() -> None:
    unit = read_unit()

    assert int(unit["TimeoutStopSec"]) >= int(read_gunicorn_settings({})["graceful_timeout"]) + 10
    assert (unit["KillMode"], unit["Type"], unit["User"]) == ("mixed", "notify", "forwarder")
    assert unit["ExecStart"].endswith("/forwarder serve")


# -- Kubernetes ------------------------------------------------------------------------------------


def test_the_settings_on_kubernetes_are_valid() -> None:
    environment = {**MANIFESTS["ConfigMap"]["data"], **SECRETS}
    created = re.findall(r"--from-literal=(\w+)=", (ROOT / "deploy/kubernetes.yaml").read_text())

    assert set(created) == set(SECRETS)
    assert Settings.from_env(environment).secret_keys
    assert all(isinstance(value, str) for value in environment.values())
    grace = read_gunicorn_settings(environment)["graceful_timeout"]
    _, pause = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert POD["terminationGracePeriodSeconds"] >= int(pause) + int(grace) + 5


def test_the_parts_of_the_manifest_fit_together() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    names = [source[kind]["name"] for source in CONTAINER["envFrom"] for kind in source]
    assert names == ["forwarder", "forwarder"]
    assert CONTAINER["image"] == f"responses-forwarder:{__version__}"
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]

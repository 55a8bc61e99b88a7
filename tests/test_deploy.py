"""The files for containers, systemd, Kubernetes and monitoring: settings and metrics that exist,
and limits that agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from configparser import RawConfigParser
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from forwarder import __version__
from forwarder.app import create_app
from forwarder.config import gunicorn_conf
from forwarder.config.settings import DOTENV_VARIABLE, SETTINGS, UPSTREAM_SETTINGS, Settings
from forwarder.observability.metrics import ERROR_KINDS, MetricsObserver
from tests.helpers.check_cases import check_each
from tests.helpers.promql import Selector, read_selectors

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

FILES = [
    *("Dockerfile", "compose.yaml"),
    *(f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir() if path.is_file()),
]
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


def test_variable_search_finds_unknown_variables() -> None:
    assert find_variables("A: FORWARDER_NO_SUCH $GUNICORN_BIND") == {
        "FORWARDER_NO_SUCH",
        "GUNICORN_BIND",
    }


@check_each("name", FILES)
def test_every_variable_is_a_setting(name: str) -> None:
    variables = find_variables((ROOT / name).read_text(encoding="utf-8"))

    assert variables
    assert variables <= VARIABLES


# -- the image -------------------------------------------------------------------------------------


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    *_, ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").partition("\n*\n")
    patterns = [line[1:] for line in ignored.splitlines() if line.startswith("!")]

    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert len(sources) == 17
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in patterns), source
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    included = {
        name for page in pages for name in re.findall(r'^--8<-- "(.+)"', page, re.MULTILINE)
    }
    assert len(included) == 4
    assert included <= set(sources), "the documentation cannot be built"


def test_the_image_installs_the_lock_and_runs_as_an_ordinary_user() -> None:
    assert "--require-hashes --only-binary :all: -r requirements.lock" in DOCKERFILE
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsNonRoot"]) == (
        10001,
        True,
    )


def test_every_probe_requests_an_existing_route() -> None:
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


# -- nginx -----------------------------------------------------------------------------------------

NGINX_TEXT = (ROOT / "deploy/nginx.conf").read_text(encoding="utf-8")


def read_directives(name: str) -> list[str]:
    """The values of a directive, wherever it stands."""
    return re.findall(rf"^ *{name} +([^;#]+);", NGINX_TEXT, re.MULTILINE)


def read_seconds(name: str) -> float:
    (value,) = read_directives(name)
    return float(value.removesuffix("s"))


def test_nginx_waits_longer_than_the_forwarder_and_takes_larger_bodies() -> None:
    settings = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"})
    (size,) = read_directives("client_max_body_size")

    assert read_seconds("keepalive_timeout") < int(read_gunicorn_settings({})["keepalive"])
    assert read_seconds("proxy_read_timeout") > settings.upstreams[0].whole_timeout
    assert read_seconds("proxy_read_timeout") > settings.websocket_idle
    assert int(size.removesuffix("m")) * 2**20 > settings.max_body


def test_nginx_repeats_no_request_that_was_sent_and_buffers_no_stream() -> None:
    assert read_directives("proxy_next_upstream") == ["error timeout"]
    assert read_directives("proxy_buffering") == ["off"]
    assert read_directives("proxy_http_version") == ["1.1"]
    headers = dict(value.split() for value in read_directives("proxy_set_header"))
    assert headers["X-Forwarded-For"] == "$proxy_add_x_forwarded_for"
    assert (headers["Upgrade"], headers["Connection"]) == (
        "$http_upgrade",
        "$connection_upgrade",
    )


# -- systemd ---------------------------------------------------------------------------------------


def test_systemd_stop_time_exceeds_the_grace_of_answers() -> None:
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


def test_kubernetes_has_disk_space_for_uploaded_files() -> None:
    settings = Settings.from_env({**MANIFESTS["ConfigMap"]["data"], **SECRETS})
    (volume,) = POD["volumes"]
    workers = int(MANIFESTS["ConfigMap"]["data"]["WEB_CONCURRENCY"])
    room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20

    assert CONTAINER["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]
    assert workers * max(settings.max_form_files, settings.max_body) < room


def test_kubernetes_resources_reference_each_other() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    (spread,) = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    names = [source[kind]["name"] for source in CONTAINER["envFrom"] for kind in source]
    assert names == ["forwarder", "forwarder"]
    assert CONTAINER["image"] == f"responses-forwarder:{__version__}"
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]


# -- monitoring ------------------------------------------------------------------------------------

DASHBOARD_TEXT = (ROOT / "deploy/grafana/dashboard.json").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads(DASHBOARD_TEXT)
ALERTS_TEXT = (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS_TEXT)["groups"] for rule in group["rules"]
]
SCRAPE_LABELS = {"instance", "job"}
"""Labels that Prometheus adds to all metrics of a scrape."""

UNUSED_METRICS: dict[str, str] = {}
"""Metrics that neither the dashboard nor the alerts use, and the reasons."""

LABEL_VALUES = {
    "kind": {*ERROR_KINDS.values(), "rate_limited", "refused", "server_error", "other", "failed"},
    "outcome": {"completed", "failed"},
    "status": {"5.."},
}
"""Label -> the values that matchers may have, unless they are variables of the dashboard."""


def list_series() -> dict[str, set[str]]:
    """The labels of each time series that the metrics of the forwarder have."""
    series = {"up": set(SCRAPE_LABELS)}  # Prometheus' own
    for metric in vars(MetricsObserver(Settings.from_env({}))).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            labels = {*metric._labelnames, *SCRAPE_LABELS}
            if family.type == "histogram":
                series |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
                series[f"{family.name}_bucket"] = labels | {"le"}
            else:
                series[f"{family.name}_total" if family.type == "counter" else family.name] = labels
    return series


SERIES = list_series()


def name_metric(series: str) -> str:
    """The metric of a time series: that of a histogram has three."""
    return re.sub("_(bucket|sum|count)$", "", series)


def list_panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def list_expressions() -> list[str]:
    """All expressions of the dashboard and of the alerts."""
    targets = [target for panel in list_panels() for target in panel.get("targets", ())]
    return [*(each["expr"] for each in targets), *(rule["expr"] for rule in ALERTS)]


def find_mistakes(selector: Selector) -> set[str]:
    """The labels and values of a selector that no metric has."""
    labels = SERIES.get(selector.metric)
    if labels is None:
        return {selector.metric}
    values = {
        f"{label}={value}"
        for label, value in selector.matchers.items()
        if label in LABEL_VALUES and not value.startswith("$") and value not in LABEL_VALUES[label]
    }
    return (selector.matchers.keys() | (selector.grouping or set())) - labels | values


def test_the_check_finds_metrics_labels_and_values_that_do_not_exist() -> None:
    for expression, mistakes in [
        ("forwarder_requests_total", set()),
        ("forwarder_requests", {"forwarder_requests"}),
        ("forwarder_first_event_seconds", {"forwarder_first_event_seconds"}),
        ("sum by (le) (forwarder_first_event_seconds_count)", {"le"}),
        ('sum by (modell) (forwarder_requests_total{stat="1"})', {"modell", "stat"}),
        ('forwarder_upstream_errors_total{kind="no_such"}', {"kind=no_such"}),
    ]:
        (selector,) = read_selectors(expression)
        assert find_mistakes(selector) == mistakes


@check_each("expression", list_expressions())
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    selectors = read_selectors(expression)

    assert selectors
    assert set().union(*map(find_mistakes, selectors)) == set()


@check_each("expression", list_expressions())
def test_quantiles_are_computed_from_buckets_by_le(expression: str) -> None:
    for selector in read_selectors(expression):
        is_bucket = selector.metric.endswith("_bucket")
        assert is_bucket == ("histogram_quantile" in expression)
        assert is_bucket == ("le" in (selector.grouping or ()))


def test_every_metric_is_used_or_has_a_reason() -> None:
    used_metrics = {
        name_metric(selector.metric)
        for expression in list_expressions()
        for selector in read_selectors(expression)
    }
    metrics = {name_metric(name) for name in SERIES} - {"up"}

    assert metrics - used_metrics == set(UNUSED_METRICS)


def test_the_dashboard_is_valid_for_grafana() -> None:
    panels = list(list_panels())
    ids = [panel["id"] for panel in panels]

    assert DASHBOARD["schemaVersion"] >= 36
    assert {"uid", "title", "time", "templating", "panels"} <= DASHBOARD.keys()
    assert len(set(ids)) == len(ids) > 20
    for panel in panels:
        assert panel["title"]
        assert panel["gridPos"].keys() == {"h", "w", "x", "y"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0
            sources = [panel["datasource"], *(each["datasource"] for each in panel["targets"])]
            assert all(each["uid"] == "${datasource}" for each in sources)


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    occupied_cells: set[tuple[int, int]] = set()
    for panel in list_panels():
        position = panel["gridPos"]
        cells = {
            (position["x"] + column, position["y"] + row)
            for column in range(position["w"])
            for row in range(position["h"])
        }
        assert not cells & occupied_cells, panel["title"]
        occupied_cells |= cells


def test_the_legends_of_the_dashboard_name_labels_of_their_series() -> None:
    for panel in list_panels():
        for target in panel.get("targets", ()):
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for selector in read_selectors(target["expr"]):
                assert labels <= (selector.grouping or set()), panel["title"]


def test_the_variables_of_the_dashboard_exist() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    used_variables = set(re.findall(r"\$\{?(\w+)", DASHBOARD_TEXT)) - {
        "__rate_interval",
        "__range",
        "__all",
    }

    assert used_variables == set(variables) == {"datasource", "upstream", "model"}
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("upstream", "model"):
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variables[name]["query"]["query"])
        assert match is not None
        (selector,) = read_selectors(match[1])
        assert match[2] == name in SERIES[selector.metric]
        assert find_mistakes(selector) == set()


def test_the_alerts_are_valid_for_prometheus() -> None:
    names = [rule["alert"] for rule in ALERTS]

    assert len(set(names)) == len(names) > 10
    for rule in ALERTS:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("critical", "warning")
        labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        for selector in read_selectors(rule["expr"]):
            if selector.metric != "up":
                assert labels <= (selector.grouping or set()), rule["alert"]


@check_each("text", [DASHBOARD_TEXT, ALERTS_TEXT], ids=["dashboard", "alerts"])
def test_monitoring_names_only_settings_that_exist(text: str) -> None:
    assert find_variables(text) <= VARIABLES


def test_compose_gives_the_monitoring_services_files_that_exist() -> None:
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["monitoring"]
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            exists = (ROOT / source).is_file() if "/" in source else source in COMPOSE["volumes"]
            assert exists, source
        for config in service["configs"]:
            assert yaml.safe_load(COMPOSE["configs"][config["source"]]["content"])
    scrape = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    assert scrape["scrape_configs"][0]["job_name"] in ALERTS[0]["expr"]

"""The page of metrics lists every exported metric."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tools.docgen.metrics import render_metrics


def test_page_has_every_exported_metric_with_its_labels() -> None:
    rows = [line.strip("| ").split(" | ") for line in render_metrics().splitlines()[2:]]
    rows_by_name = {row[0].strip("`"): row for row in rows}
    client = create_app(Settings.from_env({})).test_client()
    client.post("/v1/responses", json={"model": "demo", "input": "hi"}, buffered=True)

    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(client.get("/metrics").text)
        if not family.name.endswith("_created")
    }

    assert rows_by_name.keys() == exported.keys()
    for name, family in exported.items():
        assert rows_by_name[name][1:3] == [family.type, family.documentation]
        for sample in family.samples:
            assert all(
                f"`{label}`" in rows_by_name[name][3] for label in sample.labels.keys() - {"le"}
            )
    assert rows_by_name["forwarder_requests_total"][3] == "`route`, `upstream`, `model`, `status`"

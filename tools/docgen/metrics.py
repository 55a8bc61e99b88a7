"""The metrics that the forwarder exports, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from forwarder.config.settings import Settings
from forwarder.observability.metrics import MetricsObserver
from tools.docgen.markdown import format_code, render_table


def render_metrics() -> str:
    """Return a table with the name, type, meaning and labels of each metric."""
    return render_table(["metric", "type", "meaning", "labels"], _iterate_rows())


def _iterate_rows() -> Iterator[list[str]]:
    exported = MetricsObserver(Settings.from_env({}))
    for metric in vars(exported).values():
        if isinstance(metric, MetricWrapperBase):
            [family] = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = format_code(metric._labelnames)  # describe() lacks them without samples
            yield [f"`{name}`", family.type, family.documentation, labels]

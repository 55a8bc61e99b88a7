"""Parses the output of ``GET /metrics``."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def parse_samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return sample name without ``forwarder_`` -> label values sorted by label name -> value."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            samples.setdefault(sample.name.removeprefix("forwarder_"), {})[values] = sample.value
    return samples

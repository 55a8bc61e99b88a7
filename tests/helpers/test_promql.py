"""The reader of PromQL finds metrics, matchers and labels, and refuses other syntax."""

from __future__ import annotations

import pytest

from tests.helpers.check_cases import check_each
from tests.helpers.promql import Selector, read_selectors


@check_each(
    ("expression", "selectors"),
    [
        ("up", [Selector("up", {}, None)]),
        ('up{job="a b",x=~"5.."} == 0', [Selector("up", {"job": "a b", "x": "5.."}, None)]),
        ("sum(rate(a_total[5m])) / 1.5e9", [Selector("a_total", {}, None)]),
        (
            "sum by (x, y) (rate(a_total[$__rate_interval]))",
            [Selector("a_total", {}, frozenset({"x", "y"}))],
        ),
        (
            "topk(10, sum by (x) (a) / sum by (y) (b)) > 2 and c",
            [
                Selector("a", {}, frozenset({"x"})),
                Selector("b", {}, frozenset({"y"})),
                Selector("c", {}, None),
            ],
        ),
        (
            'histogram_quantile(0.95, sum by (le) (rate(a_bucket{m=~"$m"}[10m]))) or vector(0)',
            [Selector("a_bucket", {"m": "$m"}, frozenset({"le"}))],
        ),
        ("a * on (x) group_left (y) b", [Selector("a", {}, None), Selector("b", {}, None)]),
        ("absent(a offset 5m)", [Selector("a", {}, None)]),
    ],
)
def test_selectors_are_found(expression: str, selectors: list[Selector]) -> None:
    assert read_selectors(expression) == selectors


@check_each(
    "expression",
    ["sum(a", "a)", "sum(a) by (x)", "a{x}", "a{x=", "a ; b", "sum by (x", 'a{x=="1"}'],
)
def test_other_forms_are_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_selectors(expression)

"""The table shows the measurements."""

from __future__ import annotations

from bench import report
from bench.measure import Figures
from bench.shape import Shape
from bench.workloads import Workload

STREAM = Workload("burst", "", Shape(text=200), 16, 64)
WHOLE = Workload("short", "", Shape(text=20), 8, 64, streamed=False)


def make_figures(relay: list[float], forwarder: list[float]) -> dict[tuple[str, str], Figures]:
    costs = {"relay": relay, "forwarder": forwarder}
    return {
        (client, name): Figures(cost)
        for client in ("responses", "chat")
        for name, cost in costs.items()
    }


def test_a_row_has_medians_and_their_ratio():
    table = report.format_rows(STREAM, make_figures([500.0, 1000.0, 9000.0], [3000.0]))
    assert table.splitlines() == [
        "| burst | responses → chat | 5.0 | 15.0 | 1000 | 3000 | 3.0 |",
        "| burst | chat → responses | 5.0 | 15.0 | 1000 | 3000 | 3.0 |",
    ]


def test_a_whole_answer_has_no_chunks():
    assert "| – | – | 200 | 900 | 4.5 |" in report.format_rows(
        WHOLE, make_figures([200.0], [900.0])
    )


def test_unmeasured_value_is_a_dash():
    assert "| 5.0 | – | 1000 | – | – |" in report.format_rows(STREAM, make_figures([1000.0], []))


def test_workload_is_compared_with_the_one_named_by_beside():
    stored = Workload(
        "stored", "", Shape(text=200), 16, 64, beside="unstored", clients=("responses",)
    )
    found = {
        ("responses", "unstored"): Figures([4000.0]),
        ("responses", "forwarder"): Figures([4400.0]),
    }
    assert report.format_rows(stored, found) == (
        "| stored | responses → chat | 20.0 | 22.0 | 4000 | 4400 | 1.10 |"
    )


def test_each_fault_is_reported_once():
    found = {("chat", "forwarder"): Figures([], ["other text", "other text"])}
    assert report.list_faults(STREAM, found) == ["burst, chat client, forwarder: other text"]


def test_the_table_names_both_columns():
    assert "| relay µs/chunk | forwarder µs/chunk | relay µs/request" in report.format_header(
        3, "relay"
    )
    assert "| base µs/chunk | forwarder µs/chunk | base µs/request" in report.format_header(
        3, "base"
    )

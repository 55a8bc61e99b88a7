"""The page of usage."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.console import usage
from forwarder.server.extension import get_extension
from forwarder.storage.db.usage import UsageQuery
from forwarder.usage import report
from tests.server.conftest import Serve

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 30, "total_tokens": 1230},
}


@pytest.fixture
def client(serve: Serve) -> FlaskClient:
    client = serve(
        lambda _: httpx2.Response(200, json=ANSWER),
        FORWARDER_DATABASE_URL="none",
        FORWARDER_API_KEYS="alice:sk-a,bob:sk-b",
        FORWARDER_PRICES="gpt-x=1/0/10",
    )
    for key, model in (("sk-a", "gpt-x"), ("sk-a", "<img src=x>"), ("sk-b", "gpt-x")):
        body = {"model": f"chat/{model}", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": f"Bearer {key}"}
        client.post("/v1/chat/completions", json=body, headers=headers)
    return client


def read_rows(page: str) -> dict[str, list[str]]:
    """Return the cells of the table's rows by their heading."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL)
    return {name: re.findall(r">([^<]*)</td>", cells) for name, cells in rows}


def read_series(page: str) -> Any:
    match = re.search(r'data-series="([^"]*)"', page)
    assert match is not None
    return json.loads(html.unescape(match[1]))


def test_usage_is_summed_by_the_chosen_group(client: FlaskClient) -> None:
    rows = read_rows(client.get("/console/usage?group=client").text)

    assert rows["alice"][:5] == ["2", "0", "2,400", "0", "60"]
    assert rows["bob"][:3] == ["1", "0", "1,200"]
    assert rows["Total"][0] == "3"


def test_cost_is_that_of_models_with_a_price(client: FlaskClient) -> None:
    page = client.get("/console/usage?client=alice").text
    rows = read_rows(page)

    assert rows["Total"][0] == "2"
    assert rows["Total"][-1] == "$0.0015"
    assert "1 requests were for models without a price" in page


def test_names_of_models_are_escaped(client: FlaskClient) -> None:
    page = client.get("/console/usage").text

    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;" in page


def test_charts_have_a_point_for_each_hour_or_day(client: FlaskClient) -> None:
    for period, points in (("24h", 24), ("7d", 168), ("30d", 30), ("365d", 365)):
        series = read_series(client.get(f"/console/usage?period={period}").text)
        assert {len(values) for values in series.values()} == {points}
        assert sum(series["requests"]) == 3
        assert sum(series["output"]) == 90


def test_page_with_too_many_groups_is_marked_as_cut(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_ROWS", 1)
    monkeypatch.setattr(usage, "MAX_LISTED", 0)
    page = client.get("/console/usage?group=client").text

    assert "1 or more with fewer tokens are not listed" in page
    assert read_rows(page)["Total"][0] == "3"


def test_page_reads_each_sum_once(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    store = get_extension(client.application).services.usage_reports._store
    queries: list[UsageQuery] = []
    monkeypatch.setattr(store, "sum_costs", record_queries(store.sum_costs, queries))
    client.get("/console/usage")

    groups = sorted(query.group for query in queries)
    assert groups == [("client",), ("hour",), ("model",), ("model", "upstream")]


def record_queries(work: Callable[..., Any], queries: list[UsageQuery]) -> Callable[..., Any]:
    def run(query: UsageQuery, *arguments: Any) -> Any:
        queries.append(query)
        return work(query, *arguments)

    return run


def test_file_has_the_times_and_the_groups(client: FlaskClient) -> None:
    answer = client.get("/console/usage.csv?group=upstream")

    assert answer.mimetype == "text/csv"
    head, row = answer.text.splitlines()
    assert head.startswith("start,upstream,requests")
    assert row.split(",")[1:3] == ["chat", "3"]


def test_unknown_choices_are_refused(client: FlaskClient) -> None:
    for query in ("period=9y", "group=colour"):
        page = client.get(f"/console/usage?{query}")
        assert page.status_code == 400
        assert query.partition("=")[0] in page.text

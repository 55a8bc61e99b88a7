"""What a remote's answers say of host, key and model."""

from __future__ import annotations

import json

import httpx2
import pytest

from forwarder.config.settings import upstream_with
from forwarder.context.route import Route
from forwarder.core.errors import InvalidRequest, UpstreamBroken
from forwarder.models.probe import Check, asked, judged, listed
from tests.models.remotes import Answer, connected, gone, refusing, well


def found(answer: Answer, protocol: str = "chat") -> Check:
    upstream = connected(answer)
    return asked(upstream, Route(upstream.settings, protocol, "m"))


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_one_that_is_well(protocol: str) -> None:
    check = found(well, protocol)

    assert (check.reachable, check.key, check.model, check.is_well) == (True, True, True, True)
    assert check.latency > 0
    assert check.at > 0


def test_the_request_is_small_and_its_answer_left() -> None:
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.read())
        return well(request)

    found(answer)

    [body] = map(json.loads, sent)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 16,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("status", "message", "code", "wrong"),
    [
        (401, "bad key", None, "key"),
        (403, "forbidden", None, "key"),
        (403, "Project does not have access to model m", "model_not_found", "model"),
        (404, "The model `m` does not exist", "model_not_found", "model"),
        (404, "model 'm' not found, try pulling it first", None, "model"),
        (404, "Not Found", None, "host"),
        (405, "Method Not Allowed", None, "host"),
        (400, "Model Not Exist", None, "model"),
        (400, "m is not a valid model ID", None, "model"),
        (400, "invalid model: m", None, "model"),
        (422, "Unknown model m", None, "model"),
        (400, "messages: too short", None, "request"),
        (402, "Insufficient balance", None, None),
        (429, "slow down", "rate_limit_exceeded", None),
        (500, "oops", None, "host"),
        (503, "overloaded", None, "host"),
        (307, "elsewhere", None, "host"),
    ],
)
def test_refusals_say_what_is_wrong(
    status: int, message: str, code: str | None, wrong: str | None
) -> None:
    check = found(refusing(status, message, code))

    assert check.wrong == wrong
    assert check.reachable
    assert check.is_well is (wrong is None)
    assert (check.key, check.model) == {
        "key": (False, None),
        "model": (True, False),
        "host": (None, None),
        "request": (True, None),
        None: (True, None),
    }[wrong]


def test_one_that_is_down() -> None:
    check = found(gone)

    assert (check.reachable, check.wrong) == (False, "host")
    assert "cannot be reached" in str(check.error)


def test_other_failures() -> None:
    assert judged(UpstreamBroken("odd"), "m").wrong == "host"
    assert judged(InvalidRequest("odd"), "m").wrong == "request"


# -- the list ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "known"), [("m", True), ("other", None), (None, None)])
def test_the_list_may_name_the_model(model: str | None, known: bool | None) -> None:
    check = listed(connected(well), model)

    assert (check.reachable, check.key, check.model) == (True, True, known)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (refusing(404), (True, None, None)),
        (refusing(401), (True, False, "key")),
        (refusing(403), (True, False, "key")),
        (refusing(500), (True, None, "host")),
        (gone, (False, None, "host")),
    ],
)
def test_a_list_that_is_refused(answer: Answer, shown: tuple[object, ...]) -> None:
    check = listed(connected(answer), "m")

    assert (check.reachable, check.key, check.wrong) == shown


def test_where_clients_bring_the_keys_none_is_refused() -> None:
    settings = upstream_with("up", base_url="https://remote.test/v1", passthrough_key=True)

    check = listed(connected(refusing(401), settings))

    assert (check.is_well, check.key, check.error) == (True, None, None)


def test_a_check_as_json() -> None:
    well_ = Check(True, True, None, latency=0.0123, at=5.0).shown()
    assert well_ == {
        "reachable": True,
        "key_accepted": True,
        "model_known": None,
        "latency_ms": 12.3,
        "checked_at": 5.0,
    }
    assert Check(False, wrong="host", error="gone").shown()["error"] == "gone"

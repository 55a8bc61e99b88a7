"""Probes of the quirks of a Chat upstream."""

from __future__ import annotations

import httpx2
import pytest

from forwarder.config.settings import make_upstream_settings
from forwarder.core.errors import InvalidRequest, UpstreamUnreachable
from forwarder.providers.quirk_probe_requests import PROBES
from forwarder.upstream.quirk_probe import QuirkProbe, format_quirks_setting, pick_model
from tests.models.remotes import answer_normally, connect_upstream, refuse_connection, refusing


def refuse_parameter(name: str) -> httpx2.Response:
    message = f"Unsupported parameter: '{name}' is not supported."
    error = {"message": message, "param": name, "code": "unsupported_parameter"}
    return httpx2.Response(400, json={"error": error})


def test_verdicts_come_one_by_one_and_refusals_become_changes() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return refuse_parameter("seed") if b'"seed"' in request.read() else answer_normally(request)

    probe = QuirkProbe(connect_upstream(answer), "m")
    verdicts = {verdict.feature: verdict for verdict in probe.run()}

    assert [*verdicts] == [*PROBES]
    assert all(verdict.is_accepted for verdict in verdicts.values())
    assert verdicts["seed"].text == "accepted with quirks"
    assert verdicts["user"].text == "accepted"
    assert probe.collect_changes()["drop"] == frozenset({"seed"})


def test_refusal_without_a_known_cause_is_quoted_in_short() -> None:
    probe = QuirkProbe(connect_upstream(refusing(400, "Not today. " + "x" * 1000)), "m")
    verdict = next(probe.run())

    assert not verdict.is_accepted
    assert verdict.text.startswith("rejected, no known quirk helps (Not today. xxx")
    assert len(verdict.text) < 300


def test_unreachable_upstream_ends_the_probe() -> None:
    with pytest.raises(UpstreamUnreachable):
        next(QuirkProbe(connect_upstream(refuse_connection), "m").run())


def test_upstream_without_chat_cannot_be_probed() -> None:
    settings = make_upstream_settings(
        "native", base_url="http://up.test/v1", apis=frozenset({"responses"})
    )
    with pytest.raises(InvalidRequest, match="does not speak"):
        QuirkProbe(connect_upstream(answer_normally, settings), "m")


def test_model_is_the_first_alias_or_the_first_of_the_list() -> None:
    settings = make_upstream_settings(
        "chat", base_url="http://up.test/v1", aliases={"fast": "quick", "slow": "big"}
    )
    assert pick_model(connect_upstream(refuse_connection, settings)) == "quick"
    assert pick_model(connect_upstream(answer_normally)) == "m"
    with pytest.raises(InvalidRequest, match="name the model") as caught:
        pick_model(connect_upstream(lambda request: httpx2.Response(200, json={"data": []})))
    assert caught.value.param == "model"


def test_setting_names_the_upstream_and_is_json() -> None:
    settings = make_upstream_settings("my-llm", base_url="http://up.test/v1")
    changes = {"stream_options": False, "drop": frozenset({"seed", "metadata"})}

    line = format_quirks_setting(settings, changes)

    assert line == 'MY_LLM_QUIRKS={"drop": ["metadata", "seed"], "stream_options": false}'

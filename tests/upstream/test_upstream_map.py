"""One object for each upstream."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.upstream.upstream_map import PerUpstream

[CHAT] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"}).upstreams
LATER = replace(CHAT, name="later")


class Made:
    """The object of an upstream."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings


def test_objects_of_further_upstreams_are_created_on_demand() -> None:
    kept = PerUpstream(Made, [CHAT])
    assert [*kept] == ["chat"]
    assert "later" not in kept

    made = kept.get_or_create(LATER)

    assert made.settings is LATER
    assert kept.get_or_create(LATER) is made is kept["later"]
    assert len(kept) == 2


def test_other_settings_of_the_same_name_are_another_upstream() -> None:
    kept = PerUpstream(Made, [CHAT])
    before, changed = kept["chat"], replace(CHAT)

    assert kept.get_or_create(changed) is not before
    assert kept["chat"].settings is changed


def test_drop_returns_the_object_of_an_upstream_once() -> None:
    kept = PerUpstream(Made, [CHAT])
    made = kept["chat"]

    assert kept.drop(replace(CHAT)) is None
    assert kept.drop(CHAT) is made
    assert kept.drop(CHAT) is None
    assert not kept


def test_concurrent_calls_get_the_same_upstream() -> None:
    kept: PerUpstream[Made] = PerUpstream(Made)
    with ThreadPoolExecutor(8) as pool:
        made = {id(each) for each in pool.map(lambda _: kept.get_or_create(LATER), range(64))}

    assert len(made) == 1

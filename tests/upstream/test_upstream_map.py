"""One object for each upstream."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.upstream.upstream_map import PerUpstream

[CHAT] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"}).upstreams
FURTHER_UPSTREAM = replace(CHAT, name="later")


class UpstreamObject:
    """The object of an upstream."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings


def test_objects_of_further_upstreams_are_created_on_demand() -> None:
    objects = PerUpstream(UpstreamObject, [CHAT])
    assert [*objects] == ["chat"]
    assert "later" not in objects

    created = objects.get_or_create(FURTHER_UPSTREAM)

    assert created.settings is FURTHER_UPSTREAM
    assert objects.get_or_create(FURTHER_UPSTREAM) is created is objects["later"]
    assert len(objects) == 2


def test_other_settings_of_the_same_name_are_another_upstream() -> None:
    objects = PerUpstream(UpstreamObject, [CHAT])
    before, changed = objects["chat"], replace(CHAT)

    assert objects.get_or_create(changed) is not before
    assert objects["chat"].settings is changed


def test_drop_returns_the_object_of_an_upstream_once() -> None:
    objects = PerUpstream(UpstreamObject, [CHAT])
    created = objects["chat"]

    assert objects.drop(replace(CHAT)) is None
    assert objects.drop(CHAT) is created
    assert objects.drop(CHAT) is None
    assert not objects


def test_concurrent_calls_get_the_same_upstream() -> None:
    objects: PerUpstream[UpstreamObject] = PerUpstream(UpstreamObject)
    with ThreadPoolExecutor(8) as pool:
        ids = {
            id(each)
            for each in pool.map(lambda _: objects.get_or_create(FURTHER_UPSTREAM), range(64))
        }

    assert len(ids) == 1

"""Selection of the transport of an upstream."""

from __future__ import annotations

import pytest
from gevent import monkey

from forwarder.config.settings import Settings
from forwarder.demo import DemoTransport
from forwarder.upstream.transport import select_transport
from forwarder.upstream.transport.gevent_transport import GeventTransport
from forwarder.upstream.transport.pinned_transport import PinnedTransport

[REAL] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"}).upstreams
DEMO = Settings.from_env({}).upstreams[0]


def under_gevent(monkeypatch: pytest.MonkeyPatch, patched: bool) -> None:
    monkeypatch.setattr(monkey, "is_module_patched", lambda name: patched and name == "socket")


def test_gevent_transport_is_selected_under_gevent(monkeypatch: pytest.MonkeyPatch) -> None:
    under_gevent(monkeypatch, True)

    assert isinstance(select_transport(REAL, 1), GeventTransport)


def test_stock_transport_is_selected_under_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    under_gevent(monkeypatch, False)

    assert select_transport(REAL, 1) is None


@pytest.mark.parametrize("patched", [False, True])
def test_demo_has_its_own_transport(patched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    under_gevent(monkeypatch, patched)

    assert isinstance(select_transport(DEMO, 1), DemoTransport)


@pytest.mark.parametrize(("patched", "kind"), [(True, GeventTransport), (False, PinnedTransport)])
def test_lookup_restricts_both_transports(
    patched: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_gevent(monkeypatch, patched)

    assert type(select_transport(REAL, 1, lambda host, port: [])) is kind


@pytest.mark.parametrize(("retries", "resends"), [("0", False), ("1", True)])
def test_posts_are_repeated_only_if_retries_are_on(
    retries: str, resends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_gevent(monkeypatch, True)
    variables = {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_MAX_RETRIES": retries}
    [settings] = Settings.from_env(variables).upstreams

    transport = select_transport(settings, 1)

    assert isinstance(transport, GeventTransport)
    assert transport._resend_posts is resends

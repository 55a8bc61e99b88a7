"""The forwarder's objects in a Flask application."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from forwarder.app import make_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension, get_gateway, get_services
from forwarder.services import Services


@pytest.fixture
def services() -> Iterator[Services]:
    with Services.build(Settings.from_env({})) as built:
        yield built


@pytest.fixture
def app(services: Services) -> Flask:
    return make_app(services)


def test_services_of_the_current_application_are_found(app: Flask, services: Services) -> None:
    with app.app_context():
        assert get_services() is services
        assert get_gateway() is get_extension(app).gateway


def test_two_applications_have_separate_services(app: Flask) -> None:
    with Services.build(Settings.from_env({})) as others:
        with make_app(others).app_context():
            assert get_services() is others
        with app.app_context():
            assert get_services() is not others


def test_extension_has_the_attributes_that_the_gunicorn_worker_reads(
    app: Flask, services: Services
) -> None:
    forwarder = app.extensions["forwarder"]

    assert forwarder.settings is services.settings
    assert forwarder.running is services.running


def test_takeover_of_background_work_begins(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    background = services.require_store().background
    monkeypatch.setattr(background, "start_takeover", started.append)

    get_extension(app).resume_background_work()

    assert len(started) == 1

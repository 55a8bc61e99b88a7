"""Cancellation of tasks when the client disconnects."""

from __future__ import annotations

import pytest

from forwarder.core.errors import ClientDisconnected
from forwarder.hosted_tools.tool_kind import ClientWatch
from tests.hosted_tools.test_responses_loop import FakeClient


class Task:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def test_tasks_are_cancelled_when_the_client_leaves() -> None:
    client, task = FakeClient(), Task()
    with ClientWatch(client).cancel_on_disconnect(task):
        client.cancel()
        assert task.is_cancelled
    assert not client.cancel_callbacks


def test_tasks_are_cancelled_if_the_client_has_left_already() -> None:
    client, task = FakeClient(), Task()
    client.cancel()
    with pytest.raises(ClientDisconnected), ClientWatch(client).cancel_on_disconnect(task):
        pytest.fail("The block must not run.")
    assert task.is_cancelled


def test_tasks_are_cancelled_if_the_block_fails() -> None:
    client, task = FakeClient(), Task()
    with pytest.raises(KeyError), ClientWatch(client).cancel_on_disconnect(task):
        raise KeyError
    assert task.is_cancelled
    assert not client.cancel_callbacks


def test_tasks_that_have_ended_are_not_cancelled() -> None:
    client, task = FakeClient(), Task()
    with ClientWatch(client).cancel_on_disconnect(task):
        pass
    assert not task.is_cancelled

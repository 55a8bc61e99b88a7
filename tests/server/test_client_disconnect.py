"""Detection of disconnects while nothing is written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from forwarder.server.client_disconnect import on_client_disconnect
from tests.helpers.check_cases import check_each

PROGRAM = """
from gevent import monkey; monkey.patch_all()
import gevent, socket
from forwarder.server.client_disconnect import on_client_disconnect

client, server = socket.socketpair()
left = []
end = on_client_disconnect(server, lambda: left.append(True))
{act}
gevent.sleep(0.1)
end()
print(bool(left))
"""


@check_each(
    ("action", "is_called"),
    [
        ("client.close()", True),
        ("client.sendall(b'GET / HTTP/1.1')", False),
        ("pass", False),
        ("end(); end = lambda: None; client.close()", False),
    ],
    ids=["hangs up", "sends its next request", "waits", "hangs up afterwards"],
)
@pytest.mark.live
def test_callback_runs_only_after_a_disconnect(action: str, is_called: bool) -> None:
    program = PROGRAM.format(act=action)

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20
    )

    assert done.stdout.strip() == str(is_called), done.stderr


def test_disconnects_are_not_watched_without_socket_or_gevent() -> None:
    on_client_disconnect(None, lambda: None)()

"""Sends are whole with slow peers and several threads."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage

from forwarder.server.websocket_library_fixes import LockedSocket, watch_events

SIZE = 4_000_000


def receive_bytes(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += sock.recv(2**16)
    return bytes(data)


def test_sends_of_several_threads_do_not_mix() -> None:
    server_end, peer = socket.socketpair()
    with server_end, peer:
        locked_socket = LockedSocket(server_end, 10)
        senders = [
            threading.Thread(target=locked_socket.send, args=(letter * SIZE,))
            for letter in (b"a", b"b")
        ]
        for sender in senders:
            sender.start()
        data = receive_bytes(peer, 2 * SIZE)
        for sender in senders:
            sender.join()

    assert data in (b"a" * SIZE + b"b" * SIZE, b"b" * SIZE + b"a" * SIZE)


def test_headers_are_added_to_the_first_send_only() -> None:
    server_end, peer = socket.socketpair()
    answer = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n"
    with server_end, peer:
        locked_socket = LockedSocket(server_end, 1, {"x-a": "1", "x-b": "2"})
        locked_socket.send(answer)
        locked_socket.send(answer)
        expected = answer[:-2] + b"x-a: 1\r\nx-b: 2\r\n\r\n" + answer
        assert receive_bytes(peer, len(expected)) == expected


def test_blocked_peer_is_an_os_error() -> None:
    server_end, peer = socket.socketpair()
    with server_end, peer, pytest.raises(OSError, match="timed out"):
        LockedSocket(server_end, 0.1).send(b"x" * SIZE)


def test_other_attributes_are_those_of_the_socket() -> None:
    server_end, peer = socket.socketpair()
    with server_end, peer:
        locked_socket = LockedSocket(server_end, 1)
        peer.sendall(b"hello")

        assert locked_socket.fileno() == server_end.fileno()
        assert locked_socket.recv(5) == b"hello"


def test_bytes_of_a_message_are_counted_after_the_previous_message() -> None:
    server_end, peer = socket.socketpair()
    server, client = Connection(ConnectionType.SERVER), Connection(ConnectionType.CLIENT)
    with server_end, peer:
        locked_socket = LockedSocket(server_end, 1)
        read_events = watch_events(server.events, locked_socket.start_message)
        first = client.send(TextMessage(data="x" * 2000))
        begin, more = (
            client.send(TextMessage(data=letter * 1000, message_finished=False)) for letter in "yz"
        )
        counts = []
        for data in (first[:1000], first[1000:] + begin, more):
            peer.sendall(data)
            server.receive_data(locked_socket.recv(2**16))
            finished = [event.message_finished for event in read_events()]
            counts.append((any(finished), locked_socket.message_bytes))

    assert counts == [(False, 1000), (True, 0), (False, len(more))]


@pytest.mark.live
def test_concurrent_sends_do_not_mix_under_gevent() -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, socket
from forwarder.server.websocket_library_fixes import LockedSocket
ours, theirs = socket.socketpair()
whole = LockedSocket(ours, 5)
for letter in (b"a", b"b"):
    gevent.spawn(whole.send, letter * 4_000_000)
data = bytearray()
while len(data) < 8_000_000:
    data += theirs.recv(2**16)
print(data == b"a" * 4_000_000 + b"b" * 4_000_000)
"""
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30
    )

    assert done.stdout == "True\n", done.stderr

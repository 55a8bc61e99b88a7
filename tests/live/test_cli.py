"""``forwarder serve`` as a new user starts it: in an empty directory, with no settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.live.server import ROOT, Server, await_server, find_free_port

COMMAND = (sys.executable, "-m", "forwarder", "serve")


def start(directory: Path, *options: str) -> Server:
    port = find_free_port()
    inherited_variables = {
        k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")
    }
    log_path = directory.parent / "forwarder.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port), *options],
            cwd=directory,
            env={**inherited_variables, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    return Server(f"http://127.0.0.1:{port}", process, log_path)


def test_an_empty_directory_serves_the_demo_to_both_clients(tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    server = start(directory, "--workers", "2")
    try:
        await_server(server)
        messages = [{"role": "user", "content": "Hello"}]
        chat = httpx2.post(
            f"{server.v1}/chat/completions", json={"model": "demo", "messages": messages}, timeout=9
        )
        response = httpx2.post(
            f"{server.v1}/responses", json={"model": "demo", "input": "Hello"}, timeout=9
        )
    finally:
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(20)

    assert "You said: Hello" in chat.json()["choices"][0]["message"]["content"]
    assert "You said: Hello" in response.json()["output"][-1]["content"][0]["text"]
    assert code == 0, server.log
    assert server.log.count("Booting worker") == 2
    assert (directory / "forwarder.db").is_file()

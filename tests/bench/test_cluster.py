"""nginx of the scale-out test has the configuration that is in `deploy/`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench import cluster
from tests.helpers.certificates import Authority

needs_nginx = pytest.mark.skipif(
    cluster.NGINX is None and os.environ.get("REQUIRE_NGINX") != "1",
    reason="nginx is not installed",
)


def write_config(folder: Path) -> Path:
    Authority(folder).server(cluster.HOST)
    return cluster.write_nginx_config(folder, 1001, [1002, 1003], folder / f"{cluster.HOST}.pem")


@pytest.mark.live
@needs_nginx
def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    command = [*cluster.make_nginx_command(write_config(tmp_path)), "-t"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_only_addresses_and_certificates_are_replaced(tmp_path: Path) -> None:
    write_config(tmp_path)
    original = cluster.NGINX_CONFIG.read_text().splitlines()
    written = (tmp_path / "forwarder.conf").read_text().splitlines()

    changed = [new for old, new in zip(original, written, strict=True) if old != new]
    certificate = tmp_path / f"{cluster.HOST}.pem"
    assert [line.strip() for line in changed] == [
        "server 127.0.0.1:1002 max_fails=2 fail_timeout=5s;",
        "server 127.0.0.1:1003 max_fails=2 fail_timeout=5s;",
        "listen 127.0.0.1:1001 ssl;",
        f"ssl_certificate     {certificate};",
        f"ssl_certificate_key {certificate};",
    ]


def test_a_pattern_that_matches_another_number_of_times_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not match 2 times"):
        cluster.replace_each("a", ["b", "c"], "a")
    assert cluster.replace_each("a", ["b", "c"], "aa") == "bc"

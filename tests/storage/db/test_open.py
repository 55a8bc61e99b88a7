"""Opening the configured database, and the secret next to it."""

from __future__ import annotations

import logging
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forwarder.storage.db import open
from forwarder.storage.db.database import PostgresqlDatabase, SqliteDatabase
from forwarder.storage.db.open import DEFAULT_URL, load_secrets, open_database


@pytest.fixture(autouse=True)
def _use_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open, "BASE_PATH", tmp_path)


def test_storage_can_be_disabled() -> None:
    assert open_database("none") is None
    assert load_secrets(None) == ()


def test_file_is_created_at_the_configured_path(tmp_path: Path) -> None:
    for url, path in (
        (DEFAULT_URL, tmp_path / "forwarder.db"),
        (f"sqlite:///{tmp_path}/deep/er/state.db", tmp_path / "deep" / "er" / "state.db"),
    ):
        database = open_database(url)
        assert isinstance(database, SqliteDatabase)
        assert database.path == path
        assert path.exists()
        database.close()


def test_uncreatable_default_file_disables_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(open, "BASE_PATH", tmp_path / "file")

    assert open_database(DEFAULT_URL) is None
    assert "storage is disabled" in caplog.text
    assert isinstance(open_database(f"sqlite:///{tmp_path}/file/x.db"), SqliteDatabase)


def test_unreachable_server_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        database = open_database(f"{scheme}://me:secret@127.0.0.1:1/x")
        assert isinstance(database, PostgresqlDatabase)
        database.close()
    assert "is not usable yet" in caplog.text
    assert "secret@" not in caplog.text
    assert load_secrets(database) == ()
    assert "no secret is stored with" in caplog.text


def test_secret_file_is_created_once_and_private(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = SqliteDatabase(tmp_path / "x.db")
    with ThreadPoolExecutor(8) as pool, caplog.at_level(logging.WARNING):
        secrets = set(pool.map(lambda _: load_secrets(database), range(8)))

    [(secret,)] = secrets
    assert len(secret) >= 32
    path = tmp_path / "x.db.key"
    assert path.read_text().strip() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert caplog.text.count("FORWARDER_SECRET_KEY is not set") == 1
    assert secret not in caplog.text


def test_unwritable_secret_file_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_secrets(SqliteDatabase(tmp_path / "nowhere" / "x.db")) == ()
    assert "cannot store a secret" in caplog.text


def test_key_file_without_a_secret_gets_the_given_one(tmp_path: Path) -> None:
    """A crash or a full disk may leave the file empty."""
    path = tmp_path / "x.db.key"
    path.write_text("")

    assert load_secrets(SqliteDatabase(tmp_path / "x.db"), "mine") == ("mine",)
    assert path.read_text() == "mine\n"
    assert load_secrets(SqliteDatabase(tmp_path / "x.db"), "other") == ("mine",)


def test_key_file_that_cannot_be_written_whole_keeps_no_part_of_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "x.db.key"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        assert load_secrets(SqliteDatabase(tmp_path / "x.db"), "longer than ten bytes") == ()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert path.read_bytes() == b""
    assert load_secrets(SqliteDatabase(tmp_path / "x.db"), "mine") == ("mine",)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666])
def test_key_file_that_others_can_read_is_made_private(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.db.key"
    path.write_text("a stored secret\n")
    path.chmod(mode)

    assert load_secrets(SqliteDatabase(tmp_path / "x.db")) == ("a stored secret",)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "was readable by other users" in caplog.text
    assert "a stored secret\n" not in caplog.text


@pytest.mark.parametrize("content", ["planted", ""])
def test_key_file_of_another_user_is_not_used(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.db.key"
    path.write_text(content)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)

    assert load_secrets(SqliteDatabase(tmp_path / "x.db")) == ()
    assert path.read_text() == content
    assert "belongs to another user" in caplog.text


def test_key_file_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: int, mode: int) -> None:
        raise PermissionError

    path = tmp_path / "x.db.key"
    path.write_text("planted")
    path.chmod(0o620)
    monkeypatch.setattr(os, "fchmod", refuse)

    assert load_secrets(SqliteDatabase(tmp_path / "x.db")) == ()
    assert "other users can write the file" in caplog.text

"""``forwarder usage``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forwarder.cli.main import main
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.usage import UsageCounts, UsageKey
from forwarder.storage.repositories.usage import UsageRepository
from forwarder.usage import report

START = 1_790_000_000 // 86400 * 86400  # 2026-09-21
COUNTS = UsageCounts(requests=3, input_tokens=1_000_000, output_tokens=500_000, duration_ms=900)


@pytest.fixture(autouse=True)
def _database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
        "FORWARDER_PRICES": "m=1/1/2",
        "FORWARDER_LOG_LEVEL": "ERROR",
    }
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.chdir(tmp_path)
    database = SqliteDatabase(tmp_path / "state.db")
    UsageRepository(database).add_counts(
        [
            (UsageKey(START, "alice", "m", "up"), COUNTS),
            (UsageKey(START, "bob", "\x1b[31m", "up"), COUNTS),
        ]
    )
    database.close()


def run(*arguments: str) -> Result:
    times = ("--from", "2026-09-21", "--to", "2026-09-21")
    return CliRunner().invoke(main, ["usage", *times, *arguments])


def test_table_has_aligned_columns_and_a_total() -> None:
    result = run()

    assert result.exit_code == 0, result.output
    header, alice, bob, total = (line.split() for line in result.stdout.splitlines())
    assert header[:4] == ["start", "client", "model", "requests"]
    assert alice[:4] == ["2026-09-21T00:00:00Z", "alice", "m", "3"]
    assert bob[:4] == ["2026-09-21T00:00:00Z", "bob", "\\x1b[31m", "3"]
    assert total[:2] == ["total", "6"]
    assert (alice[-2:], bob[-2:], total[-2:]) == (["2.0", "0"], ["-", "3"], ["2.0", "3"])


def test_cut_report_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().stderr == ""
    monkeypatch.setattr(report, "MAX_ROWS", 1)
    result = run()

    assert result.exit_code == 0
    assert "Only the first" in result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == ["alice", "6"]


def test_report_has_groups_and_a_client() -> None:
    result = run("--group", "client", "--client", "bob")

    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["client", "requests"],
        ["bob", "3"],
        ["total", "3"],
    ]


def test_csv_can_be_read_by_programs() -> None:
    header, *rows = csv.reader(io.StringIO(run("--csv", "--group", "client,model").stdout))

    assert header[:3] == ["client", "model", "requests"]
    assert [row[:3] for row in rows] == [["alice", "m", "3"], ["bob", "\\x1b[31m", "3"]]


def test_bad_options_are_explained() -> None:
    result = run("--group", "week")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Invalid value for 'group'" in result.stderr


def test_usage_requires_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"FORWARDER_DATABASE_URL": "none"})
    result = run()

    assert result.exit_code == 1
    assert "there is no database" in result.stderr

"""The outcome of the load on several machines, its report, and the broken promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

KILL_ERRORS = ("502 ", "504 ", "400 conversation_locked", "cut ")
"""Errors that the kill of a machine may cause: nginx's own errors, the lock of an aborted turn, and
truncated answers."""


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    seconds: float
    conversations: int
    workers: int
    words: int
    seed: int
    kill: bool


@dataclass
class Limited:
    """The use of a client with a limit, in requests or tokens.

    ``cost`` is that of one request. ``unknown`` may or may not have counted: the kill ended these
    requests, or their answer came when the window could be over.
    """

    limit: int
    cost: int = 1
    allowed: int = 0
    refused: int = 0
    unknown: int = 0

    def find_fault(self, name: str) -> str | None:
        """Return a fault if the limit was off by more than 1 % and one request, or None."""
        if not self.refused:
            return f"{name}: the limit was not reached"
        tolerance = max(self.cost, self.limit * 0.01)
        if not self.limit - tolerance - self.unknown <= self.allowed <= self.limit + tolerance:
            return f"{name}: {self.allowed} were allowed with a limit of {self.limit}"
        return None


@dataclass
class KeyTimes:
    """When changes of keys became effective.

    ``commands`` are the durations of the commands in seconds, ``late`` the seconds between the end
    of a command and the last wrong answer to a request that was sent after it.
    """

    commands: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


@dataclass
class Outcome:
    """The counters and faults of all clients."""

    requests: int = 0
    turns: Counter[str] = field(default_factory=Counter)
    http_errors: Counter[str] = field(default_factory=Counter)
    program_errors: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    restarted: int = 0
    faults: list[str] = field(default_factory=list)
    requests_limit: Limited = field(default_factory=lambda: Limited(0))
    tokens_limit: Limited = field(default_factory=lambda: Limited(0))
    made: KeyTimes = field(default_factory=KeyTimes)
    revoked: KeyTimes = field(default_factory=KeyTimes)
    killed_at: float | None = None
    return_seconds: float | None = None


class UsageComparison(NamedTuple):
    """Tokens of a client as counted by the forwarder and by the provider.

    ``excused`` are those of the killed machine's last interval, which may be missing.
    """

    counted: int
    provided: int
    excused: int

    def find_fault(self) -> str | None:
        missing = self.provided - self.counted
        if 0 <= missing <= self.excused:
            return None
        return f"usage: {missing} tokens are missing, and at most {self.excused} may be"


@dataclass
class Result:
    """Everything that was measured; ``seconds`` is how long the load took to its last answer."""

    outcome: Outcome
    options: Options
    seconds: float
    usage: list[UsageComparison]
    database_bytes: int
    log_events: Counter[str]


def format_report(result: Result) -> str:
    """Format the table."""
    outcome = result.outcome
    turns = outcome.turns.total()
    usage = [sum(column) for column in zip(*result.usage, strict=True)]
    rows = [
        ("requests (HTTP, with retries)", f"{outcome.requests} in {result.seconds:.0f} s"),
        ("turns that clients have received", f"{turns} ({format_counts(outcome.turns)})"),
        ("turns lost", str(len(outcome.lost))),
        (
            "background responses that did not complete",
            f"{len(outcome.incomplete)}; {outcome.restarted} were started again",
        ),
        ("requests a minute: allowed / limit", format_limit(outcome.requests_limit)),
        ("tokens a minute: allowed / limit", format_limit(outcome.tokens_limit)),
        ("new keys", format_times(outcome.made)),
        ("revoked keys", format_times(outcome.revoked)),
        ("warnings in the log", format_counts(result.log_events)),
        ("HTTP errors", format_counts(outcome.http_errors)),
        ("errors after the retries of the SDK", format_counts(outcome.program_errors)),
        (
            "tokens: counted / of the provider",
            f"{usage[0]} / {usage[1]}; up to {usage[2]} may be missing after the kill",
        ),
        (
            "the killed machine serves again after",
            "–" if outcome.return_seconds is None else f"{outcome.return_seconds:.1f} s",
        ),
        (
            f"database, per million turns (answers of {result.options.words} words)",
            f"{result.database_bytes / max(1, turns) * 1e6 / 2**30:.1f} GiB",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counts.most_common()) or "none"


def format_limit(limited: Limited) -> str:
    unknown = f", {limited.unknown} unknown" if limited.unknown else ""
    return f"{limited.allowed} / {limited.limit} ({limited.refused} refused{unknown})"


def format_times(times: KeyTimes) -> str:
    late_count = sum(1 for seconds in times.late if seconds)
    return (
        f"{len(times.late)}; effective {max(times.commands, default=0):.2f} s after the request at "
        f"the latest, {late_count} later than its answer"
        + (f" (by up to {max(times.late):.2f} s)" if late_count else "")
    )


def list_faults(result: Result) -> Iterator[str]:
    """Yield the broken promises."""
    outcome = result.outcome
    yield from outcome.lost
    yield from (f"not completed: {each}" for each in outcome.incomplete)
    yield from outcome.faults
    for name, limited in (
        ("requests a minute", outcome.requests_limit),
        ("tokens a minute", outcome.tokens_limit),
    ):
        if fault := limited.find_fault(name):
            yield fault
    for name, times in (("new", outcome.made), ("revoked", outcome.revoked)):
        if not times.late:
            yield f"no {name} key was checked"
        yield from (f"a {name} key was {s:.2f} s late" for s in times.late if s)
    expected = KILL_ERRORS if outcome.killed_at is not None else ()
    for name, count in (outcome.http_errors + outcome.program_errors).items():
        if not name.startswith((*expected, "429 rate_limit_exceeded")):
            yield f"{count} × {name}"
    yield from (fault for each in result.usage if (fault := each.find_fault()))

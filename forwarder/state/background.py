"""Background work: a response that is made whether its client waits or not.

It is queued in the store, made by the worker that took the request, and read from the store by
whoever asks, on any worker.  What a job has made is written a few times a second, and with it a
lease; a worker whose lease has run out is dead, and its work has failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from forwarder.errors import InvalidRequest, NotFound, StoreUnavailable
from forwarder.exchange import Exchange
from forwarder.mint import random_id
from forwarder.network.aside import spawn
from forwarder.network.running import Running
from forwarder.state.holding import Hold, Holds
from forwarder.state.items import as_items
from forwarder.state.keeping import last_said, marks, say
from forwarder.state.turns import base_of
from forwarder.store import Database, logs, responses, work
from forwarder.store.responses import Kept
from forwarder.translate.call import Batch, Json, Stream
from forwarder.translate.ending import told_responses
from forwarder.translate.responses_over_chat.echo import blank_response
from forwarder.translate.vocabulary import TERMINALS
from forwarder.translate.whole import events as whole_events

log = logging.getLogger("forwarder.background")

_TICK = 0.2
"""Seconds between two writes of what jobs have made, and between two looks of who reads it."""

_RENEW = 3.0
"""Seconds between two signs of life."""

_TRIES = 5
"""How often the end of a job is written before it is left to its lease."""

_TOLD = ("response.created", "response.queued", "response.in_progress")
"""Events that an answer begins with, and which are told before there is one."""

Made = Callable[[], Stream]
"""Asks the upstream, and gives its answer."""


@dataclass
class Job:
    """One response in the making; ``pending`` are its events that are not yet stored."""

    owner: str
    blank: Json
    made: Made
    exchange: Exchange
    hold: Hold | None = None
    pending: Batch = field(default_factory=list)
    writing: threading.Lock = field(default_factory=threading.Lock)
    number: int = 2

    def begin(self) -> None:
        """Note that work on it has begun."""
        response = {**self.blank, "status": "in_progress"}
        self._add({"type": "response.in_progress", "response": response})

    @property
    def id(self) -> str:
        return str(self.blank["id"])

    @property
    def key(self) -> tuple[str, str]:
        return self.owner, self.id

    @property
    def is_over(self) -> bool:
        """Has it ended, and only that is still to be stored?"""
        return bool(self.pending) and self.pending[-1]["type"] in TERMINALS

    def take(self, batch: Batch) -> Json | None:
        """Note events as those of this response; its response when they end it."""
        for event in batch:
            if event["type"] in _TOLD:
                continue  # that was told when it began
            if type(event.get("response")) is dict:
                event = {**event, "response": {**self.blank, **event["response"], **self._own}}
            self._add(event)
            if event["type"] in TERMINALS:
                response: Json = event["response"]
                return response
        return None

    def _add(self, event: Json) -> None:
        self.pending.append({**event, "sequence_number": self.number})
        self.number += 1

    @property
    def _own(self) -> Json:
        names = ("id", "created_at", "model", "background", "store", "previous_response_id")
        own = {name: self.blank[name] for name in names}
        return own | {k: v for k, v in self.blank.items() if k == "conversation"}


class Background:
    """All background work of a process."""

    def __init__(self, database: Database, running: Running, holds: Holds) -> None:
        self._database = database
        self._running = running
        self._holds = holds
        self._worker = random_id("worker")
        self._jobs: dict[tuple[str, str], Job] = {}
        self._starting = threading.Lock()
        self._keeping = False

    def start(self, owner: str, request: Json, exchange: Exchange, made: Made) -> Json:
        """Queue a request and begin with it; the response as it is now.

        ``exchange`` is that of the work, which outlives the one of the client.  Raises
        ConversationLocked.
        """
        base = base_of(request)
        now = time.time()
        blank = blank_response(request, random_id("resp"), int(now))
        blank |= {"status": "queued", "background": True, **marks(base, True)}
        hold = self._holds.of(owner, base.conversation) if base.conversation else None
        job = Job(owner, blank, made, exchange, hold)
        kept = Kept(
            id=job.id,
            status="queued",
            input=as_items(request.get("input")),
            body=blank,
            created=now,
            previous=base.previous,
            conversation=base.conversation,
            worker=self._worker,
            lease=work.lease(),
        )
        told = ("response.created", "response.queued")
        opening = [
            {"type": kind, "response": blank, "sequence_number": i} for i, kind in enumerate(told)
        ]
        self._database.write(lambda c: self._queue(c, job, kept, opening))
        if job.hold is not None:
            job.hold.keep()
            exchange.opened.add(job.hold.drop)
        self._jobs[job.key] = job
        spawn(lambda: self._run(job))
        self._keep()
        return blank

    def _queue(self, connection: sa.Connection, job: Job, kept: Kept, opening: Batch) -> None:
        if job.hold is not None:
            job.hold.take(connection)
        kept = kept._replace(before=last_said(connection, job.owner, kept.conversation))
        responses.add(connection, job.owner, kept, [logs.pack(opening)])

    # -- the work itself --------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        try:
            self._make(job)
        except Exception:
            log.exception("the background response %s broke", job.id)
        finally:
            self._jobs.pop(job.key, None)
            job.exchange.close()

    def _make(self, job: Job) -> None:
        job.begin()
        stream = job.exchange.guarded(self._events(job))
        for batch in told_responses(stream):
            if job.exchange.tape is not None:
                job.exchange.tape.told(batch)
            response = job.take(batch)
            if response is not None:
                self._finish(job, response)
                return

    def _events(self, job: Job) -> Stream:
        """Connects in here, so that what fails before the answer begins is told like the rest."""
        exchange = job.exchange
        exchange.run = run = self._running.enter()
        exchange.opened.add(self._running.leave, run)
        yield from exchange.making(self._opened(job))

    def _opened(self, job: Job) -> Stream:
        yield from job.made()

    def _finish(self, job: Job, response: Json) -> None:
        for attempt in range(_TRIES):
            try:
                with job.writing:
                    self._database.write(lambda c: self._end(c, job, response))
                if job.hold is not None:
                    job.hold.done()
                return
            except StoreUnavailable:
                time.sleep(attempt)

    def _end(self, connection: sa.Connection, job: Job, response: Json) -> None:
        mine = work.finish(
            connection, job.owner, job.id, self._worker, response, job.exchange.upstream,
            job.pending,
        )  # fmt: skip
        kept = responses.find(connection, job.owner, job.id) if mine else None
        if kept is not None:
            say(connection, job.owner, kept)
        if job.hold is not None:
            job.hold.give_back(connection)

    # -- signs of life ----------------------------------------------------------------------------

    def _keep(self) -> None:
        """Have what the jobs make written, as long as there are any."""
        with self._starting:
            if not self._keeping:
                self._keeping = True
                spawn(self._write_on)

    def _write_on(self) -> None:
        renewed = time.monotonic()
        while True:
            time.sleep(_TICK)
            try:
                self._look()
                if time.monotonic() - renewed > _RENEW:
                    self._database.write(lambda c: work.renew(c, self._worker))
                    renewed = time.monotonic()
            except StoreUnavailable:
                continue  # it is in the log; what is pending waits
            except Exception:
                log.exception("background work could not be written")
            with self._starting:
                if not self._jobs:
                    self._keeping = False
                    return

    def _look(self) -> None:
        """Store what is new, and leave what has been ended by others."""
        jobs = list(self._jobs.values())
        for job in jobs:
            self._flush(job)
        mine = self._database.read(lambda c: work.mine(c, self._worker))
        for job in jobs:
            if job.key not in mine and job.key in self._jobs and not job.is_over:
                job.exchange.leave()

    def _flush(self, job: Job) -> None:
        with job.writing:
            events = list(job.pending)  # more may come while these are written
            if not events or job.is_over:
                return  # the end is written with all that is pending
            self._database.write(
                lambda c: work.progress(c, job.owner, job.id, self._worker, events)
            )
            job.pending = job.pending[len(events) :]

    # -- asking for it ----------------------------------------------------------------------------

    def cancel(self, owner: str, response_id: str) -> Json:
        """End a job, wherever it runs; the response as it is then.

        Raises NotFound, and InvalidRequest for what was no background work.
        """
        kept = self._database.write(lambda c: _cancelled(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if job is not None:
            job.exchange.leave()
        return kept.body

    def remove(self, owner: str, response_id: str) -> bool:
        """Delete a response, and end what works on it; False when there is none."""
        removed = self._database.write(lambda c: responses.remove(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if removed and job is not None:
            job.exchange.leave()
        return removed

    def found(self, owner: str, response_id: str) -> Kept:
        """A stored response; work of the dead has failed.  Raises NotFound."""
        kept = self._database.read(lambda c: responses.find(c, owner, response_id))
        if kept is None:
            raise no_response(response_id)
        if work.is_lost(kept):
            lost = kept
            kept = self._database.write(lambda c: work.bury(c, owner, lost))
        return kept

    def told(
        self,
        owner: str,
        response_id: str,
        after: int,
        patience: float,
        waited: Callable[[float], bool],
    ) -> Stream:
        """The events of a response behind a number, those to come included.

        Yields an empty batch when there was none for ``patience`` seconds.  ``waited`` waits for
        some seconds, and says whether there is still somebody who wants to hear.
        """
        heard = time.monotonic()
        while True:
            kept = self.found(owner, response_id)
            batch = self._database.read(partial(_log, owner=owner, kept=kept, after=after))
            if batch:
                yield batch
                after, heard = batch[-1]["sequence_number"], time.monotonic()
            elif time.monotonic() - heard >= patience:
                yield []
                heard = time.monotonic()
            if not kept.is_running or not waited(_TICK):
                return


def _log(connection: sa.Connection, owner: str, kept: Kept, after: int) -> Batch:
    """What is stored of the events; of an answer that was given as a whole, what would have been.

    What was stored since ``kept`` was read is left for the next look: it may have another end.
    """
    logged = responses.log_after(connection, owner, kept, after)
    if logged or kept.is_running:
        return [event for event in logged if event["type"] not in TERMINALS or not kept.is_running]
    if responses.log_after(connection, owner, kept, -1):
        return []
    return [e for e in whole_events("responses", kept.body, True) if e["sequence_number"] > after]


def _cancelled(connection: sa.Connection, owner: str, response_id: str) -> Kept:
    kept = responses.find(connection, owner, response_id)
    if kept is None:
        raise no_response(response_id)
    if not kept.body.get("background"):
        raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
    return work.end(connection, owner, kept, "cancelled", None)


def no_response(name: str) -> NotFound:
    """There is none of this name, or not for this client."""
    return NotFound(f"Response with id '{name[:64]}' not found.", param="response_id")

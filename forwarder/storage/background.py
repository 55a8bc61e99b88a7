"""Background work: a response that is made whether its client waits or not.

It is queued in the store, made by the worker that took the request, and read from the store by
whoever asks, on any worker.  What a job has made is written a few times a second, and with it a
lease.

Work that has not ended when its worker goes is handed back, and the lease of a worker that died
runs out: another worker then takes the work up and begins it anew, if the upstream may be asked
twice and not too many attempts were made.  Otherwise it has failed.  Leases that have run out are
judged in one place, `Background._look_for_work`, and in `Background._bury` for a client that asks;
both wait until the database has settled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.context.request_context import Exchange
from forwarder.core.concurrency import spawn
from forwarder.core.errors import (
    ConversationLocked,
    InvalidRequest,
    NotFound,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.heap_size import measure_heap
from forwarder.core.ids import random_id
from forwarder.core.shutdown import Running
from forwarder.core.types import Batch, Json, Stream
from forwarder.protocols.mappings import TERMINALS
from forwarder.protocols.stream_end import told_responses
from forwarder.protocols.unfold import events as whole_events
from forwarder.storage.conversation_lock import Hold, Holds
from forwarder.storage.db import Database, background_leases, conversations, event_log, responses
from forwarder.storage.db.responses import Kept
from forwarder.storage.db.settling import SETTLE_SECONDS
from forwarder.storage.items import as_items
from forwarder.storage.response_recorder import last_said, marks, say
from forwarder.storage.resume import base_of
from forwarder.translation.responses_over_chat.response_skeleton import blank_response

log = logging.getLogger("forwarder.background")

_TICK = 0.2
"""Seconds between two writes of what jobs have made, and between two looks of who reads it."""

_RENEW = 3.0
"""Seconds between two signs of life."""

_RETRY = 1.0
"""Seconds after which a write is tried again that the database did not take."""

_FOLLOWS = 5
"""How often in a row a response at its upstream is followed anew without hearing anything new."""

_LOOK = 1.0
"""Seconds between two looks for work that waits to be taken up."""

_PASS_OVER_SECONDS = 60.0
"""Seconds for which a worker leaves alone the work that it cannot take up."""

_ORIGIN_SECONDS = 10.0
"""Seconds for which the id of a response that is cancelled is awaited from its upstream."""

Made = Callable[[], Stream]
"""Asks the upstream, and gives its answer."""

Follow = Callable[[background_leases.Origin], Stream]
"""Follows a response that its upstream makes already, from its first event."""


class Task(NamedTuple):
    """What is to be done: ``made`` asks the upstream, ``follow`` follows what it makes already.

    ``request`` is sealed, for another worker; ``repeats`` says whether the upstream may be asked
    twice.  ``works_on`` tells whether the upstream that is being asked works on when the connection
    is closed.
    """

    made: Made
    follow: Follow
    request: str | None = None
    repeats: bool = False
    works_on: Callable[[], bool] = lambda: False


class Takeover(NamedTuple):
    """How work that others have left is taken up, and stopped at its upstream.

    ``admit`` makes the exchange; raises Overloaded when there are too many.  ``can_read`` tells
    whether this worker can read a sealed request.  ``revive`` completes the exchange and gives the
    task again.  ``cancel`` cancels a response at its upstream, for the client of a sealed request;
    what fails of that goes to the log.
    """

    admit: Callable[[], Exchange]
    can_read: Callable[[str], bool]
    revive: Callable[[Exchange, background_leases.Taken], Task]
    cancel: Callable[[background_leases.Origin, str | None], None]


class Limits(NamedTuple):
    """What background work may cost.

    ``attempts`` is how often it is begun, and ``grace`` how many seconds it has when the process
    goes (``None``: as many as all answers).  A finished response that cannot be stored is kept for
    ``unsaved_age`` seconds.  What cannot be stored, of finished and of running work together, takes
    up to ``unsaved_max`` bytes of memory.
    """

    attempts: int = 3
    grace: float | None = None
    unsaved_age: float = 900.0
    unsaved_max: int = 64 << 20


class _HandedBack(Exception):
    """The work is in the queue again, and not this worker's any more."""


@dataclass
class Job:
    """One response in the making; ``pending`` are its events that are not yet stored.

    ``origin`` is where its upstream makes it, if that goes on without us.  Such a response is
    followed from its first event again when the connection breaks: ``known`` is how many events
    are told already, and ``passed`` how many have come over this connection.

    ``counted`` of the pending events, ``unsaved`` bytes of memory, count for the limit of what the
    database does not take.  ``is_dropped`` is work beyond that limit.  ``is_unwanted`` is work that
    was ended here, and that its upstream has still to be told to end.
    """

    owner: str
    blank: Json
    task: Task
    exchange: Exchange
    hold: Hold | None = None
    pending: Batch = field(default_factory=list)
    writing: threading.Lock = field(default_factory=threading.Lock)
    number: int = 2
    origin: background_leases.Origin | None = None
    origin_is_stored: bool = False
    known: int = 0
    passed: int = 0
    counted: int = 0
    unsaved: int = 0
    has_heard: bool = False
    is_dropped: bool = False
    is_unwanted: bool = False

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
            self.has_heard = True
            if event["type"] in background_leases.OPENING_EVENTS:
                self._note_origin(event)
                continue  # that was told when it began
            self.passed += 1
            if self.passed <= self.known:
                continue
            if type(event.get("response")) is dict:
                response = event["response"]
                own = self._own | self._mark(response)
                event = {**event, "response": {**self.blank, **response, **own}}
            self._add(event)
            if event["type"] in TERMINALS:
                ended: Json = event["response"]
                return ended
        return None

    def _note_origin(self, event: Json) -> None:
        response = event.get("response")
        if self.origin or type(response) is not dict or response.get("background") is not True:
            return
        if self.exchange.upstream and response.get("id"):
            self.origin = background_leases.Origin(self.exchange.upstream, str(response["id"]))

    def _add(self, event: Json) -> None:
        self.pending.append({**event, "sequence_number": self.number})
        self.number += 1

    @property
    def _own(self) -> Json:
        names = ("id", "created_at", "model", "background", "store", "previous_response_id")
        own = {name: self.blank[name] for name in names}
        return own | {k: v for k, v in self.blank.items() if k == "conversation"}

    def _mark(self, response: Json) -> Json:
        """The metadata of a response, with the attempt that it comes from."""
        attempt = self.blank["metadata"].get(background_leases.ATTEMPT)
        metadata = response.get("metadata") or {}
        return {"metadata": {**metadata, background_leases.ATTEMPT: attempt}} if attempt else {}


class Background:
    """All background work of a process."""

    def __init__(
        self,
        database: Database,
        running: Running,
        holds: Holds,
        limits: Limits | None = None,
        settle_owner: Callable[[str], str] = str,
    ) -> None:
        self._settle_owner = settle_owner
        self._database = database
        self._running = running
        self._holds = holds
        self._limits = limits or Limits()
        self._worker = random_id("worker")
        self._jobs: dict[tuple[str, str], Job] = {}
        self._starting = threading.Lock()
        self._keeping = False
        self._takeover: Takeover | None = None
        self._passed_over: dict[str, float] = {}
        self._unsaved = 0

    def start(self, owner: str, request: Json, exchange: Exchange, task: Task) -> Json:
        """Queue a request and begin with it; the response as it is now.

        ``exchange`` is that of the work, which outlives the one of the client.  Raises
        ConversationLocked.
        """
        base = base_of(request)
        now = time.time()
        blank = blank_response(request, random_id("resp"), int(now))
        blank |= {"status": "queued", "background": True, **marks(base, True)}
        hold = self._holds.of(owner, base.conversation) if base.conversation else None
        job = Job(owner, blank, task, exchange, hold)
        kept = Kept(
            id=job.id,
            status="queued",
            input=as_items(request.get("input")),
            body=blank,
            created=now,
            previous=base.previous,
            conversation=base.conversation,
        )
        told = ("response.created", "response.queued")
        opening = [
            {"type": kind, "response": blank, "sequence_number": i} for i, kind in enumerate(told)
        ]
        self._database.write(lambda c: self._queue(c, job, kept, opening))
        self._begin(job)
        return blank

    def _queue(self, connection: sa.Connection, job: Job, kept: Kept, opening: Batch) -> None:
        repeats = job.task.repeats
        if job.hold is not None:
            job.hold.take(connection)
            if conversations.find(connection, job.owner, job.hold.conversation) is None:
                repeats = False  # it is the upstream's, and would have what is asked twice
        kept = kept._replace(before=last_said(connection, job.owner, kept.conversation))
        responses.add(connection, job.owner, kept, [event_log.pack(opening)])
        request = job.task.request if repeats else None
        background_leases.begin(connection, job.owner, kept.id, self._worker, request)

    def _begin(self, job: Job) -> None:
        """Work on what is this worker's in the store."""
        if job.hold is not None:
            job.hold.keep()
            job.exchange.opened.add(job.hold.drop)
        self._jobs[job.key] = job
        spawn(lambda: self._run(job))
        self._keep()

    # -- taking work up ---------------------------------------------------------------------------

    def serve(self, takeover: Takeover) -> None:
        """Take up from now on what others have left, until the process is about to go."""
        with self._starting:
            if self._takeover is None:
                self._takeover = takeover
                spawn(lambda: self._look_on(takeover))

    def _look_on(self, takeover: Takeover) -> None:
        while not self._database.closed.wait(_LOOK) and not self._running.is_leaving:
            try:
                self._look_for_work(takeover)
            except StoreUnavailable:
                continue  # it is in the log
            except Exception:
                log.exception("background work could not be taken up")

    def _look_for_work(self, takeover: Takeover) -> None:
        """Take up work that waits, and bury work that nobody may take up.

        Work that was handed back has no worker that could still renew its lease.  All other waits
        until the database has settled.  This worker's own is about to be renewed.
        """
        now = time.monotonic()
        self._passed_over = {name: end for name, end in self._passed_over.items() if end > now}
        skip = [*self._passed_over, *(job.id for job in list(self._jobs.values()))]
        waiting = self._database.read(partial(background_leases.waiting, skip=skip))
        lost = self._database.read(partial(background_leases.lost, skip=skip))
        if not waiting and not lost:
            return
        if not self._database.has_settled():
            waiting = self._database.read(
                partial(background_leases.waiting, skip=skip, only_handed_back=True)
            )
            lost = []
        for take, found in ((self._bury, lost), (partial(self._take_up, takeover), waiting)):
            for owner, name in found:
                try:
                    take(owner, name)
                except StoreUnavailable:  # it may refuse this one alone
                    self._pass_over(name, 2 * SETTLE_SECONDS)
                    raise
                except Overloaded:
                    return  # another worker may have room
                except Exception:  # of one response; the others must not wait for it
                    log.exception("the background response %s could not be taken up", name)
                    self._pass_over(name)

    def _pass_over(self, name: str, seconds: float | None = None) -> None:
        self._passed_over[name] = time.monotonic() + (seconds or _PASS_OVER_SECONDS)

    def _bury(self, owner: str, name: str) -> None:
        """End work that nobody may take up, if it is lost."""
        kept = self._database.write(lambda c: background_leases.bury(c, owner, name))
        if kept is not None:
            self._cancel_buried(kept, None)

    def _cancel_buried(self, kept: Kept, request: str | None) -> None:
        """Let an upstream that still makes a response that was given up here end it, too."""
        log.warning({"event": "background_given_up", "response": kept.id})
        if kept.upstream_id is not None:
            self._cancel(background_leases.Origin(kept.upstream or "", kept.upstream_id), request)

    def _cancel(self, origin: background_leases.Origin, request: str | None) -> None:
        """Cancel a response at its upstream, without waiting for its answer."""
        takeover = self._takeover
        if takeover is not None:
            spawn(lambda: takeover.cancel(origin, request))

    def _take_up(self, takeover: Takeover, owner: str, name: str) -> None:
        request = self._database.read(lambda c: background_leases.find_request(c, owner, name))
        if request is None:
            return  # another worker was faster
        if not takeover.can_read(request):
            self._pass_over(name)
            log.warning({"event": "background_request_unreadable", "response": name})
            kept = self._database.write(lambda c: background_leases.bury_unreadable(c, owner, name))
            if kept is not None:
                self._cancel_buried(kept, request)
            return
        owner = self._settle_owner(owner)
        exchange = takeover.admit()
        try:
            taken, hold = self._database.write(lambda c: self._claim(c, owner, name))
            task = (
                takeover.revive(exchange, taken)
                if isinstance(taken, background_leases.Taken)
                else None
            )
        except ConversationLocked:
            exchange.opened.close()  # another turn goes on, and this one waits for its end
            return
        except BaseException:
            exchange.opened.close()  # if it was claimed, the lease runs out; the attempt counts
            raise
        if not isinstance(taken, background_leases.Taken) or task is None:
            exchange.opened.close()
            if isinstance(taken, Kept):
                self._cancel_buried(taken, request)
            return
        said = {"event": "background_taken_up", "id": exchange.id, "response": name}
        log.warning({**said, "attempt": taken.attempt, "follows": taken.origin is not None})
        job = Job(owner, taken.kept.body, task, exchange, hold, number=taken.number)
        job.origin, job.known = taken.origin, taken.known
        job.origin_is_stored = taken.origin is not None
        self._begin(job)

    def _claim(
        self, connection: sa.Connection, owner: str, name: str
    ) -> tuple[background_leases.Taken | Kept | None, Hold | None]:
        taken = background_leases.take_up(
            connection, owner, name, self._worker, self._limits.attempts
        )
        if not isinstance(taken, background_leases.Taken) or taken.kept.conversation is None:
            return taken, None
        hold = self._holds.of(owner, taken.kept.conversation)
        hold.take(connection)
        return taken, hold

    # -- the work itself --------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        try:
            self._make(job)
        except _HandedBack:
            said = {"event": "background_handed_back", "id": job.exchange.id}
            log.warning({**said, "response": job.id})
        except Exception:
            log.exception("the background response %s broke", job.id)
        finally:
            self._discount(job)
            self._jobs.pop(job.key, None)
            job.exchange.close()

    def _make(self, job: Job) -> None:
        if job.origin is None:
            job.begin()
        stream = self._until_shutdown(job)
        for batch in told_responses(stream):
            if job.exchange.tape is not None:
                job.exchange.tape.told(batch)
            response = job.take(batch)
            if job.is_dropped:
                return
            if response is not None:
                self._finish(job, response)
                return
            if job.is_unwanted and job.has_heard:
                self._end_unwanted(job)
                return

    def _until_shutdown(self, job: Job) -> Stream:
        """The stream of a job; raises _HandedBack if the process ends first, unless it has failed.

        While the database is away nothing is handed back, and the lease runs out.
        """
        try:
            yield from job.exchange.guarded(self._events(job))
        except ShuttingDown:
            try:
                self._flush(job)
                own = job.owner, job.id, self._worker
                handed_back = self._database.write(lambda c: background_leases.hand_back(c, *own))
            except StoreUnavailable:
                handed_back = True
            if handed_back:
                raise _HandedBack from None
            raise

    def _events(self, job: Job) -> Stream:
        """Connects in here, so that what fails before the answer begins is told like the rest."""
        exchange = job.exchange
        exchange.run = run = self._running.enter(self._limits.grace)
        exchange.opened.add(self._running.leave, run)
        yield from exchange.making(self._opened(job))

    def _opened(self, job: Job) -> Stream:
        """The stream of a job; one that its upstream makes without us is followed to its end."""
        failures = 0
        while True:
            before = job.passed = 0
            try:
                if job.origin is None:
                    yield from job.task.made()
                else:
                    before = job.known
                    yield from job.task.follow(job.origin)
                return
            except (UpstreamUnreachable, UpstreamTimeout, UpstreamBroken):
                job.known = max(job.known, job.passed)
                failures = 1 if job.known > before else failures + 1
                if job.origin is None or job.exchange.left or failures > _FOLLOWS:
                    raise
            time.sleep(_RETRY * failures)

    def _finish(self, job: Job, response: Json) -> None:
        """Store the end of a job; while the database is away, keep it within the limits."""
        deadline = time.monotonic() + self._limits.unsaved_age
        while not self._is_stored(job, response):
            self._count_unsaved(job)
            run = job.exchange.run
            is_due = run is not None and self._running.is_due(run)
            if job.is_dropped:
                return
            if is_due or time.monotonic() > deadline:
                log.error({"event": "background_response_lost", "response": job.id})
                return
            time.sleep(_RETRY)

    def _count_unsaved(self, job: Job) -> None:
        """Count the memory of what a job has pending; while that is too much, drop the largest.

        Called only when the database has not taken it, so that nothing is measured in good times.
        """
        if job.key not in self._jobs:
            return  # it was dropped
        events = job.pending
        size = sum(map(measure_heap, events[job.counted :]))
        job.counted = len(events)
        job.unsaved += size
        self._unsaved += size
        while self._unsaved > self._limits.unsaved_max:
            self._drop(max(self._jobs.values(), key=lambda job: job.unsaved))

    def _drop(self, job: Job) -> None:
        """Lose what a job has made; its lease runs out, and it is begun anew or has failed."""
        log.error({"event": "background_response_lost", "response": job.id})
        self._discount(job)
        job.is_dropped = True
        self._jobs.pop(job.key, None)
        if not job.is_over:  # else it is about to be stored, and given up if that fails
            job.pending = []
            job.exchange.leave()

    def _discount(self, job: Job) -> None:
        """Count nothing of a job any more: it is stored, or lost."""
        self._unsaved -= job.unsaved
        job.counted = job.unsaved = 0

    def _is_stored(self, job: Job, response: Json) -> bool:
        """Is the end of a job stored, or settled in another way?"""
        try:
            with job.writing:
                is_own = self._database.write(lambda c: self._end(c, job, response))
        except StoreUnavailable:
            return False
        if not is_own and response["status"] in ("completed", "incomplete"):
            log.warning({"event": "background_answer_discarded", "response": job.id})
        if job.hold is not None:
            job.hold.done()
        return True

    def _end(self, connection: sa.Connection, job: Job, response: Json) -> bool:
        mine = background_leases.finish(
            connection, job.owner, job.id, self._worker, response, job.exchange.upstream,
            job.pending, job.origin.upstream_id if job.origin else None,
        )  # fmt: skip
        kept = responses.find(connection, job.owner, job.id) if mine else None
        if kept is not None:
            say(connection, job.owner, kept)
        if job.hold is not None:
            job.hold.give_back(connection)
        return mine

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
                    names = [job.id for job in list(self._jobs.values())]
                    self._database.write(
                        partial(background_leases.renew, worker=self._worker, names=names)
                    )
                    renewed = time.monotonic()
            except StoreUnavailable:
                time.sleep(_RETRY)  # it is in the log; what is pending waits
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
            try:
                self._flush(job)
            except StoreUnavailable:  # it is in the log; what is pending waits
                if not job.is_over:
                    self._count_unsaved(job)
            except Exception:  # of one job; the leases of its neighbours must be renewed
                log.exception("the events of background work could not be written")
        mine = self._database.read(lambda c: background_leases.mine(c, self._worker))
        for job in jobs:
            is_left = job.is_over or job.is_unwanted or job.exchange.left
            if job.key not in mine and job.key in self._jobs and not is_left:
                owner, name = job.key
                is_taken = self._database.read(
                    partial(background_leases.is_running, owner=owner, response_id=name)
                )
                self._stop(job, ends_upstream=not is_taken and not job.origin_is_stored)

    def _flush(self, job: Job) -> None:
        with job.writing:
            events = list(job.pending)  # more may come while these are written
            if job.origin is not None and not job.origin_is_stored:
                given = job.owner, job.id, self._worker, job.origin, job.task.request
                job.origin_is_stored = self._database.write(
                    lambda c: background_leases.note_origin(c, *given)
                )
            if not events or job.is_over:
                return  # the end is written with all that is pending
            self._database.write(
                lambda c: background_leases.progress(c, job.owner, job.id, self._worker, events)
            )
            job.pending = job.pending[len(events) :]
            self._discount(job)

    # -- stopping ---------------------------------------------------------------------------------

    def _stop(self, job: Job, ends_upstream: bool) -> None:
        """Leave a job that has ended in the store.

        With ``ends_upstream`` its upstream, if that works on without a connection, is told to end
        it.  The one that ended the job in the store could not do so: the upstream's id of the
        response was not stored then.  If that id is not known yet, it is awaited.
        """
        job.is_unwanted = ends_upstream
        if ends_upstream and not job.has_heard and job.task.works_on():
            spawn(lambda: self._stop_later(job))
        else:
            self._end_unwanted(job)

    def _stop_later(self, job: Job) -> None:
        deadline = time.monotonic() + _ORIGIN_SECONDS
        while job.is_unwanted and job.key in self._jobs and time.monotonic() < deadline:
            time.sleep(_TICK)
        self._end_unwanted(job)

    def _end_unwanted(self, job: Job) -> None:
        is_unwanted, job.is_unwanted = job.is_unwanted, False
        job.exchange.leave()
        if is_unwanted and job.origin is not None:
            self._cancel(job.origin, job.task.request)

    # -- asking for it ----------------------------------------------------------------------------

    def cancel(self, owner: str, response_id: str) -> Kept:
        """End a job, wherever it runs; the response as it is then.

        Raises NotFound, and InvalidRequest for what was no background work.
        """
        kept = self._database.write(lambda c: _cancelled(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if job is not None and not job.is_over:
            self._stop(job, ends_upstream=kept.upstream_id is None)
        return kept

    def remove(self, owner: str, response_id: str) -> Kept | None:
        """Delete a response, and end what works on it; the response as it was, if there is one."""
        removed = self._database.write(lambda c: _removed(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if removed is not None and job is not None and not job.is_over:
            self._stop(job, ends_upstream=removed.upstream_id is None)
        return removed

    def found(self, owner: str, response_id: str) -> Kept:
        """A stored response; lost work that nobody may take up has failed.

        Raises NotFound.
        """
        kept = self._database.read(lambda c: responses.find(c, owner, response_id))
        if kept is None:
            raise no_response(response_id)
        is_lost = kept.is_lost and (owner, response_id) not in self._jobs
        if is_lost and self._database.has_settled():
            self._bury(owner, response_id)
            return self.found(owner, response_id)
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

        A fresh attempt begins with ``response.queued``, under a number behind all that were told;
        what the attempt before it had made is void, and not told any more.
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


def _removed(connection: sa.Connection, owner: str, response_id: str) -> Kept | None:
    kept = responses.find(connection, owner, response_id, lock=True)
    return kept if responses.remove(connection, owner, response_id) else None


def _cancelled(connection: sa.Connection, owner: str, response_id: str) -> Kept:
    kept = responses.find(connection, owner, response_id, lock=True)
    if kept is None:
        raise no_response(response_id)
    if not kept.body.get("background"):
        raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
    return background_leases.end(connection, owner, kept, "cancelled", None)


def no_response(name: str) -> NotFound:
    """There is none of this name, or not for this client."""
    return NotFound(f"Response with id '{name[:64]}' not found.", param="response_id")

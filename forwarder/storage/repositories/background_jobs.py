"""Background jobs of a worker: leases, progress, the end of a job, and its takeover."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from forwarder.core.body_memory import BodyReservation
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Batch, Json
from forwarder.storage.db import (
    Database,
    background_leases,
    conversations,
    event_log_encoding,
    responses,
)
from forwarder.storage.db.background_leases import ClaimedWork, ResponseOrigin
from forwarder.storage.db.conversations import ConversationLease
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.repositories.responses import append_to_conversation, read_last_item_number

JobIds = list[tuple[str, str]]
"""Jobs as (owner, response id)."""


class BackgroundJobRepository:
    """The background jobs of a database, as the worker ``worker_id`` sees them."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self._database = database
        self._worker_id = worker_id

    # -- own jobs ---------------------------------------------------------------------------------

    def add(
        self,
        owner: str,
        stored: StoredResponse,
        opening: Batch,
        request: str | None,
        lease: ConversationLease | None,
    ) -> None:
        """Store a queued response with its first events, and grant this worker its lease.

        ``request`` is the encrypted request if the job may be repeated. Raises ConversationLocked
        if another turn holds the conversation of ``lease``.
        """

        def write(connection: sa.Connection) -> None:
            repeated_request = request
            if lease is not None:
                conversations.acquire_lock(connection, lease)
                if conversations.find(connection, owner, lease.conversation) is None:
                    # The upstream's own conversation would get the turn twice.
                    repeated_request = None
            before = read_last_item_number(connection, owner, stored.conversation)
            chunk = event_log_encoding.pack_events(opening)
            responses.add(connection, owner, stored._replace(before=before), [chunk])
            background_leases.grant_lease(
                connection, owner, stored.id, self._worker_id, repeated_request
            )

        self._database.write(write)

    def append_progress(self, owner: str, response_id: str, events: Batch) -> bool:
        """Append events to the log. False if the job belongs to another worker now."""
        return self._database.write(
            lambda c: background_leases.append_progress(
                c, owner, response_id, self._worker_id, events
            )
        )

    def set_origin(
        self, owner: str, response_id: str, origin: ResponseOrigin, request: str | None
    ) -> bool:
        """Store the origin of a response, so that another worker can follow it.

        ``request`` is the encrypted request. False if the job belongs to another worker now.
        """
        return self._database.write(
            lambda c: background_leases.set_origin(
                c, owner, response_id, self._worker_id, origin, request
            )
        )

    def renew_leases(self, response_ids: list[str]) -> None:
        """Renew this worker's leases on these responses."""
        self._database.write(
            lambda c: background_leases.renew_leases(c, self._worker_id, response_ids)
        )

    def finish(
        self,
        owner: str,
        response: Json,
        events: Batch,
        upstream: str | None,
        upstream_id: str | None,
        lease: ConversationLease | None,
    ) -> bool:
        """Store the final response, append it to its conversation, and release the lease.

        False if the response has ended in another way. ``events`` are those not stored yet.
        """

        def write(connection: sa.Connection) -> bool:
            mine = background_leases.finish_work(
                connection, owner, response["id"], self._worker_id, response, upstream, events,
                upstream_id,
            )  # fmt: skip
            stored = responses.find(connection, owner, response["id"]) if mine else None
            if stored is not None:
                append_to_conversation(connection, owner, stored)
            if lease is not None:
                conversations.release_lease(connection, *lease)
            return mine

        return self._database.write(write)

    def release(self, owner: str, response_id: str) -> bool:
        """Release a job to other workers. False if it cannot be repeated."""
        return self._database.write(
            lambda c: background_leases.release_work(c, owner, response_id, self._worker_id)
        )

    def list_own(self) -> set[tuple[str, str]]:
        """Return the unfinished jobs of this worker, as (owner, response id)."""
        return self._database.read(lambda c: background_leases.list_own(c, self._worker_id))

    # -- jobs of any worker -----------------------------------------------------------------------

    def is_running(self, owner: str, response_id: str) -> bool:
        """Whether a response is queued or in progress."""
        return self._database.read(lambda c: background_leases.is_running(c, owner, response_id))

    def cancel(self, owner: str, response_id: str) -> StoredResponse | None:
        """Cancel a background response. Returns it, or None if there is no such response.

        Raises InvalidRequest if it is not a background response.
        """

        def write(connection: sa.Connection) -> StoredResponse | None:
            stored = responses.find(connection, owner, response_id, lock=True)
            if stored is None:
                return None
            if not stored.body.get("background"):
                raise InvalidRequest(
                    "Only background responses can be cancelled.", param="response_id"
                )
            return background_leases.end_work(connection, owner, stored, "cancelled", None)

        return self._database.write(write)

    def list_waiting(self, skip: Collection[str], only_released: bool = False) -> JobIds:
        """Return released or expired jobs that can be repeated, without the ids in ``skip``."""
        return self._database.read(
            lambda c: background_leases.list_waiting(c, skip=skip, only_released=only_released)
        )

    def list_lost(self, skip: Collection[str]) -> JobIds:
        """Return expired jobs that cannot be repeated, without the ids in ``skip``."""
        return self._database.read(lambda c: background_leases.list_lost(c, skip=skip))

    def fail_lost(self, owner: str, response_id: str) -> StoredResponse | None:
        """Fail a lost job. None if it is not lost."""
        return self._database.write(lambda c: background_leases.fail_lost(c, owner, response_id))

    def fail_unreadable(self, owner: str, response_id: str) -> StoredResponse | None:
        """Fail a job that waited too long to be decrypted. None if it may still wait."""
        return self._database.write(
            lambda c: background_leases.fail_unreadable(c, owner, response_id)
        )

    def find_request(self, owner: str, response_id: str) -> str | None:
        """Return the encrypted request of a job that can be repeated."""
        return self._database.read(lambda c: background_leases.find_request(c, owner, response_id))

    def claim(
        self,
        owner: str,
        response_id: str,
        max_attempts: int,
        memory: BodyReservation | None = None,
    ) -> tuple[ClaimedWork | StoredResponse | None, ConversationLease | None]:
        """Take over a waiting job, with a new lease on its conversation.

        The job is None if another worker was faster, and the failed response after ``max_attempts``
        attempts. ``memory`` reserves the JSON texts of the job before they are parsed.
        Raises ConversationLocked if a turn is running in the conversation.
        """

        def write(
            connection: sa.Connection,
        ) -> tuple[ClaimedWork | StoredResponse | None, ConversationLease | None]:
            spend = None if memory is None else memory.add_json
            if memory is not None:
                memory.release()  # the batch may repeat this write
            claimed = background_leases.claim_work(
                connection, owner, response_id, self._worker_id, max_attempts, spend
            )
            if not isinstance(claimed, ClaimedWork) or claimed.response.conversation is None:
                return claimed, None
            lease = conversations.make_lease(owner, claimed.response.conversation)
            conversations.acquire_lock(connection, lease)
            return claimed, lease

        return self._database.write(write)

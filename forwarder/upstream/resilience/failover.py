"""Chooses upstreams for requests: endpoints, groups, fallbacks, and the limit of requests.

A route leads to an upstream, and there to one of its endpoints. The members of a group are routes
of which one is chosen, and the fallbacks of an upstream are routes in a fixed order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver, Route
from forwarder.core.errors import ForwarderError, Overloaded
from forwarder.core.types import EventStream
from forwarder.upstream.resilience.balance import (
    ANYWHERE,
    Affinity,
    Candidate,
    choose_candidate,
)
from forwarder.upstream.resilience.classify import (
    describe_failure,
    get_failure_label,
    is_worth_fallback,
)
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from forwarder.upstream.resilience.shared_state import SharedState
from forwarder.upstream.resilience.upstream_state import Obstacle, UpstreamState
from forwarder.upstream.upstream_map import PerUpstream

log = logging.getLogger("forwarder.resilience")

OpenRoute = Callable[[Route], EventStream]
"""Calls a route's upstream; the answer has begun when it returns."""


class Resilience:
    """Chooses upstreams for requests, and holds the states of all upstreams of this process.

    ``observer`` is notified of failures, fallbacks and rejections.
    """

    def __init__(self, settings: Settings, observer: RequestObserver | None = None) -> None:
        self.observer = observer or RequestObserver()
        self.shared: SharedState | None = None
        self._settings = settings
        self._grouped_upstreams = {
            member.upstream for group in settings.groups.values() for member in group
        }
        self.upstream_states = PerUpstream(self._create_state, settings.upstreams)
        self.concurrency_limit = ConcurrencyLimit(settings.max_concurrent)
        self.counts: Counter[str] = Counter()

    def admit_request(self, context: RequestContext) -> None:
        """Admit a request until its context is closed.  Raises Overloaded above the limit."""
        free = self.concurrency_limit.acquire()
        if free is None:
            self.counts["refused"] += 1
            self.observer.on_rejection("overloaded")
            raise Overloaded("The forwarder already serves the maximum number of requests.")
        context.cleanup.add(free)

    def open_first_available(
        self,
        routes: Sequence[Route],
        open_: OpenRoute,
        context: RequestContext,
        affinity: Affinity = ANYWHERE,
    ) -> EventStream:
        """Return the answer of the first route that succeeds.

        Fallbacks are tried in their order. If all fail, raises the error of the first route, which
        the client requested, and restores ``context`` to the state of that route.

        Of a group, members of a lower order come first, and `balance.py` chooses among those of
        the same order. If all fail, raises the last error; if all are left out because they are
        cooling down or broken, the refusal of the one that can be called first.
        """
        first, *others = routes
        if first.member is not None:
            return self._open_group(routes, open_, context, affinity)
        try:
            return self._open_route(first, open_, context, affinity)
        except ForwarderError as error:
            own_key = not first.upstream.passthrough_key
            if context.is_cancelled or not others or not is_worth_fallback(error, own_key):
                raise
            failures = [error]
        loss_report, headers = context.loss_report, context.reply_headers
        stream = self._try_fallbacks(routes, open_, context, affinity, failures)
        hidden = list(zip(routes, failures, strict=False))
        # If all routes failed, the client sees the first failure.
        self._record_hidden_failures(hidden[1:] if stream is None else hidden)
        if stream is None:
            context.start_attempt(first.upstream.name, first.model)
            context.loss_report, context.reply_headers = loss_report, headers
            raise failures[0]
        return stream

    def describe_states(self) -> dict[str, Any]:
        """Return upstream name -> its state and counters, and those of each of its endpoints."""
        described = {}
        for name, state in self.upstream_states.items():
            settings = state.settings
            if name != settings.name:  # a further endpoint
                continue
            described[name] = state.describe()
            if settings.replicas:
                described[name] |= dict(sorted(self.count_events(settings).items()))
                described[name]["endpoints"] = self.describe_endpoints(settings)
        return described

    def describe_endpoints(self, settings: UpstreamSettings) -> list[dict[str, Any]]:
        """Return the state of each endpoint of an upstream; empty if there is only one."""
        if not settings.replicas:
            return []
        return [each.describe_endpoint() for each in self._get_endpoint_states(settings)]

    def count_events(self, settings: UpstreamSettings) -> Counter[str]:
        """Return the counters of an upstream: those of all its endpoints together."""
        return sum((each.counts for each in self._get_endpoint_states(settings)), Counter())

    def list_endpoint_states(self) -> list[UpstreamState]:
        """Return the states of the endpoints of all upstreams that have several."""
        return [
            state
            for settings in self._settings.upstreams
            if settings.replicas
            for state in self._get_endpoint_states(settings)
        ]

    # -- endpoints ------------------------------------------------------------------------------

    def _get_endpoint_states(self, settings: UpstreamSettings) -> list[UpstreamState]:
        return [self.upstream_states.get_or_create(each) for each in settings.endpoints]

    def _open_route(
        self, route: Route, open_: OpenRoute, context: RequestContext, affinity: Affinity
    ) -> EventStream:
        """Return the answer of a route: of its upstream, or of the first endpoint that answers."""
        if not route.upstream.replicas:
            return self._open_endpoint(route, open_, context)
        upstream = self.upstream_states.get_or_create(route.upstream)
        pauses = upstream.make_backoff()
        upstream.retry_budget.earn()
        while True:
            try:
                return self._open_any_endpoint(route, open_, context, affinity)
            except ForwarderError as error:
                if not upstream.wait_for_retry(error, pauses, context):
                    raise

    def _open_any_endpoint(
        self, route: Route, open_: OpenRoute, context: RequestContext, affinity: Affinity
    ) -> EventStream:
        """Try the endpoints of an upstream; a failure of a host excludes all its endpoints.

        If all of them are cooling down, raises the refusal of the one that can be called first,
        otherwise the last failure.
        """
        pinned = route.upstream.find_endpoint(affinity.origin or "")
        if affinity.is_pinned and pinned is not None:
            return self._open_endpoint(replace(route, upstream=pinned), open_, context)
        states = self._get_endpoint_states(route.upstream)
        left, failures = list(states), list[tuple[Route, ForwarderError]]()
        while left:
            state = self._choose_endpoint(left, route.model, affinity, is_first=not failures)
            if state is None:
                break
            try:
                stream = self._open_endpoint(
                    replace(route, upstream=state.settings), open_, context
                )
                self._record_hidden_failures(failures)
                return stream
            except ForwarderError as error:
                own_key = not route.upstream.passthrough_key
                is_final = context.is_cancelled or isinstance(error, Overloaded)
                if is_final or not is_worth_fallback(error, own_key):
                    raise
                failures.append((route, error))
                self._record_endpoint_failure(state, error, context)
                concerns_key = error.status == 429 or state.cooldowns.find(route.model) is not None
            left.remove(state)
            if not concerns_key:
                left = [each for each in left if each.breaker is not state.breaker]
        soonest = find_soonest(state.find_obstacle(route.model) for state in states)
        self._record_hidden_failures(failures[:-1])
        if failures and (soonest is None or soonest.concerns_account):
            raise failures[-1][1]
        # An obstacle may have ended since the endpoints were checked.
        refusal = states[0].make_unavailable_error() if soonest is None else soonest.error
        if not failures:  # nothing was called
            context.start_attempt(route.upstream.name, route.model)
            states[0].record_refusal(refusal)
        raise refusal

    def _choose_endpoint(
        self, states: Sequence[UpstreamState], model: str, affinity: Affinity, is_first: bool
    ) -> UpstreamState | None:
        """Return the endpoint for a request; ``None`` if all are cooling down or broken.

        The first call of a request may go to an account that refused an earlier request: providers
        also refuse keys and accounts because of one model or one expensive request, and other
        requests must still be tried.
        """
        obstacles = [(state, state.find_obstacle(model)) for state in states]
        usable = [state for state, obstacle in obstacles if obstacle is None]
        if not usable and is_first:
            usable = [state for state, found in obstacles if found and found.concerns_account]
        for state in usable:
            if state.settings.origin == affinity.origin:
                return state
        candidates = []
        for state in usable:
            weight = get_weight(state)
            candidates.append(
                Candidate(state.settings.origin, weight, state.in_flight, weight, state)
            )
        return choose_candidate(candidates, affinity.sticky_key).value if candidates else None

    def _open_endpoint(
        self, route: Route, open_: OpenRoute, context: RequestContext
    ) -> EventStream:
        """Return the answer of one endpoint, or of an upstream that has only one."""
        upstream = route.upstream
        context.start_attempt(upstream.name, route.model)
        context.endpoint = upstream.endpoint
        admission = self.upstream_states.get_or_create(upstream).admit_request()
        try:
            stream = open_(route)
        except BaseException:
            admission.close()
            raise
        context.cleanup.add(admission.close)
        if upstream.endpoint is not None:
            self.observer.on_endpoint_answer(upstream, has_failed=False)
        return stream

    def _record_endpoint_failure(
        self, state: UpstreamState, error: ForwarderError, context: RequestContext
    ) -> None:
        endpoint = state.settings.endpoint
        assert endpoint is not None
        context.failed_endpoints.append(endpoint.label)
        self.observer.on_endpoint_answer(state.settings, has_failed=True)
        fields = {
            "event": "upstream_endpoint_failed",
            "id": context.id,
            "upstream": state.settings.name,
            "endpoint": endpoint.label,
        }
        log.info(fields | describe_failure(error))

    # -- groups ---------------------------------------------------------------------------------

    def _open_group(
        self,
        routes: Sequence[Route],
        open_: OpenRoute,
        context: RequestContext,
        affinity: Affinity,
    ) -> EventStream:
        """Return the answer of the first member of a group that succeeds.

        Members of the same order share the requests. Members that are cooling down or broken are
        skipped. If all are skipped, raises the error of the one that can be called first.
        """
        left, failures = list(routes), list[tuple[Route, ForwarderError]]()
        while left:
            route = self._choose_member(left, affinity, is_first=not failures)
            if route is None:
                break
            if failures:
                self._record_fallback(failures[-1][0], route, failures[-1][1], context)
            try:
                stream = self._open_route(route, open_, context, affinity)
            except ForwarderError as error:
                own_key = not route.upstream.passthrough_key
                if context.is_cancelled or not is_worth_fallback(error, own_key):
                    raise
                failures.append((route, error))
                left.remove(route)
                continue
            self._record_hidden_failures(failures)
            return stream
        if failures:
            self._record_hidden_failures(failures[:-1])
            raise failures[-1][1]
        known = ((route, obstacle) for route in routes if (obstacle := self._find_obstacle(route)))
        soonest = min(known, key=lambda pair: rank_obstacle(pair[1]), default=None)
        route = routes[0] if soonest is None else soonest[0]
        state = self.upstream_states.get_or_create(route.upstream)
        context.start_attempt(route.upstream.name, route.model)
        # An obstacle may have ended since the members were checked.
        raise state.record_refusal(
            state.make_unavailable_error() if soonest is None else soonest[1].error
        )

    def _choose_member(
        self, routes: Sequence[Route], affinity: Affinity, is_first: bool
    ) -> Route | None:
        """Return the member for a request; ``None`` if all are cooling down or broken.

        As in `_choose_endpoint`, the first call may go to a refused account.
        """
        obstacles = [(route, self._find_obstacle(route)) for route in routes]
        usable = [route for route, obstacle in obstacles if obstacle is None]
        if not usable and is_first:
            usable = [route for route, found in obstacles if found and found.concerns_account]
        if affinity.origin:
            origins = [each for each in usable if each.upstream.find_endpoint(affinity.origin)]
            usable = origins or usable
        members = [(route, route.member) for route in usable if route.member is not None]
        first_order = min((member.order for _, member in members), default=0)
        members = [(route, member) for route, member in members if member.order == first_order]
        candidates = [
            Candidate(
                f"{member.upstream}/{member.model}",
                member.weight,
                self.upstream_states.get_or_create(route.upstream).concurrency_limit.in_use,
                sum(other.weight for _, other in members if other.upstream == member.upstream),
                route,
            )
            for route, member in members
        ]
        return choose_candidate(candidates, affinity.sticky_key).value if candidates else None

    def _find_obstacle(self, route: Route) -> Obstacle | None:
        """Return the obstacle that ends first; ``None`` if an endpoint can be called now."""
        states = self._get_endpoint_states(route.upstream)
        return find_soonest(state.find_obstacle(route.model) for state in states)

    # -- fallbacks ------------------------------------------------------------------------------

    def _try_fallbacks(
        self,
        routes: Sequence[Route],
        open_: OpenRoute,
        context: RequestContext,
        affinity: Affinity,
        failures: list[ForwarderError],
    ) -> EventStream | None:
        """Try the routes after the first; append their errors to ``failures``.

        Every error leads to the next route, because the client did not request a fallback.
        """
        for before, route in pairwise(routes):
            self._record_fallback(before, route, failures[-1], context)
            try:
                return self._open_route(route, open_, context, affinity)
            except ForwarderError as error:
                if context.is_cancelled:
                    break
                failures.append(error)
        return None

    def _create_state(self, settings: UpstreamSettings) -> UpstreamState:
        siblings: tuple[UpstreamState, ...] = ()
        if settings.entry_name != settings.name:
            siblings = tuple(
                state
                for state in self.upstream_states.values()
                if state.settings.name == settings.name
            )
        state = UpstreamState(
            settings, self.observer, identify=self._identify_client, siblings=siblings
        )
        state.is_grouped = settings.name in self._grouped_upstreams and not settings.registered
        if self.shared is not None:
            self.shared.connect(state)
        return state

    def _identify_client(self, context: RequestContext) -> str:
        return make_account_id(context.client_key, context.client_address, self._settings)

    def _record_hidden_failures(self, failures: Sequence[tuple[Route, ForwarderError]]) -> None:
        """Record failures that the client does not see."""
        for route, error in failures:
            self.observer.on_failure(route.upstream.name, error)

    def share_states(self, shared: SharedState) -> None:
        """Share cooldowns and open breakers with other processes from now on."""
        self.shared = shared
        for settings in self._settings.upstreams:
            for state in self._get_endpoint_states(settings):
                shared.connect(state)

    def _record_fallback(
        self, before: Route, to: Route, error: ForwarderError, context: RequestContext
    ) -> None:
        names = before.upstream.name, to.upstream.name
        self.upstream_states.get_or_create(before.upstream).counts["fallbacks"] += 1
        context.failed_upstreams.append(before.upstream.name)
        self.observer.on_fallback(*names, get_failure_label(error))
        fields = {
            "event": "upstream_fallback",
            "id": context.id,
            "upstream": names[0],
            "fallback": names[1],
        }
        log.warning(fields | describe_failure(error))


def find_soonest(obstacles: Iterable[Obstacle | None]) -> Obstacle | None:
    """Return the obstacle that ends first; ``None`` if one of the candidates has none."""
    found = list(obstacles)
    known = [obstacle for obstacle in found if obstacle is not None]
    return min(known, key=rank_obstacle) if len(known) == len(found) else None


def rank_obstacle(obstacle: Obstacle) -> tuple[bool, float]:
    """Return the sort key of obstacles: those that end by themselves come first."""
    return obstacle.concerns_account, obstacle.seconds


def get_weight(state: UpstreamState) -> float:
    """Return the weight of an endpoint."""
    return 1.0 if state.settings.endpoint is None else state.settings.endpoint.weight

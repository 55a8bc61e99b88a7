"""The page of the upstreams: their states, their health over time, and the probe of their quirks.

A check of an upstream that is down takes seconds, so the page first shows the last results. While
it is visible, the browser reloads the part of each upstream every few seconds, which checks the
upstream. States, counts and histories are those of the worker that answers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

from flask import Response, url_for
from werkzeug.utils import redirect
from werkzeug.wrappers import Response as Redirect

from forwarder.config.parsers import parse_quirks
from forwarder.config.settings import UpstreamSettings
from forwarder.console.blueprint import blueprint, read_form_field, render_page, stream_page
from forwarder.console.upstream_usage import try_collect_usage
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    NotFound,
    Overloaded,
    shorten_value,
)
from forwarder.core.types import Json
from forwarder.core.url_secrets import describe_url
from forwarder.models.health_probe import ProbeResult
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.registry import make_disabled_error
from forwarder.models.upstream_health import HISTORY_SIZE, HealthTarget
from forwarder.protocols.chat import CHAT
from forwarder.providers import PROFILE_FIELDS, convert_types
from forwarder.providers.learned_cache import MAX_AGE_SECONDS, serialize_changes
from forwarder.providers.profile import ProfileChanges
from forwarder.providers.quirk_probe_requests import PROBES
from forwarder.server.extension import get_request, get_services
from forwarder.upstream.client import Upstream
from forwarder.upstream.key_refusal import find_key_setting
from forwarder.upstream.quirk_probe import (
    ProbeVerdict,
    QuirkProbe,
    format_quirks_setting,
    pick_model,
)
from forwarder.upstream.resilience import UpstreamState
from forwarder.upstream.resilience.breaker import CLOSED, OPEN
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit

MAX_ROWS = 500
"""Registered models that the page lists."""

MAX_LEARNED_MODELS = 8
"""Models that are shown with their learned quirks."""

MAX_MESSAGE_LENGTH = 400
"""Characters of an upstream's error that are shown."""

MAX_PROBES = 2
"""Probes that a worker runs at once."""

MAX_PROBE_SECONDS = 600.0
"""Time after which a probe is stopped."""

_running_probes = ConcurrencyLimit(MAX_PROBES)


# -- values for the templates ---------------------------------------------------------------------


class HistoryChart(NamedTuple):
    """The latencies of checks, newest at the right, in an SVG of 360 by 48 units.

    ``lines`` are the points of polylines, which end at failed checks. ``failures`` are the x
    coordinates of failed checks. ``summary`` describes the chart in words.
    """

    lines: list[str]
    failures: list[str]
    summary: str


class UpstreamFacts(NamedTuple):
    """The settings of an upstream, as text. ``key`` names the source of its key."""

    name: str
    address: str
    protocols: str
    profile: str
    key: str
    fallbacks: list[str]
    can_probe: bool


class UpstreamView(NamedTuple):
    """The state of an upstream in this worker.

    ``tone`` is ``good``, ``bad`` or ``""``. ``latency`` is in milliseconds. ``learned`` are triples
    of model, quirks and remaining time; ``more_learned`` is the number of models that are left out.
    ``endpoints`` are triples of tone, name and state, if there are several.
    """

    tone: str
    state: str
    since: str
    checked: str
    latency: float | None
    errors: list[str]
    models: int | None
    breaker: str
    breaker_tone: str
    concurrency: str
    counts: list[str]
    learned: list[tuple[str, str, str]]
    more_learned: int
    chart: HistoryChart | None
    endpoints: list[tuple[str, str, str]]


COUNTS = (
    ("attempts", "calls"),
    ("failures", "failed"),
    ("retries", "repeated"),
    ("fallbacks", "handed to a fallback"),
    ("refused", "refused here"),
    ("breaker_open", "breaker openings"),
)
"""Counter of `UpstreamState` -> its title. Without events, only the first two are shown."""

MAX_SHOWN_COOLDOWNS = 5
"""Cooldowns of models that are listed for one endpoint."""

FAULTS = {
    "host": "does not work",
    "key": "key refused",
    "model": "model unknown",
    "request": "rejects a test request",
}
"""Fault of a probe result -> the state of a reachable upstream."""


def describe_settings(upstream: Upstream) -> UpstreamFacts:
    """Return the settings of an upstream as text, without secrets."""
    settings = upstream.settings
    return UpstreamFacts(
        name=settings.name,
        address=describe_url(settings.base_url),
        protocols=", ".join(sorted(settings.apis)),
        profile=upstream.profile.name,
        key=describe_key(settings),
        fallbacks=[
            f"{each.upstream}/{each.model}" if each.model else each.upstream
            for each in settings.fallback
        ],
        can_probe=CHAT.name in settings.apis,
    )


def describe_key(settings: UpstreamSettings) -> str:
    if settings.passthrough_key:
        return "the clients' own keys"
    suffix = find_key_setting(settings)
    if not settings.api_key and suffix == "API_KEY":
        return "none"
    return "stored" if settings.registered else settings.name_variable(suffix)


def describe_state(target: HealthTarget) -> UpstreamView:
    """Return the state of a target as it is known, without asking the upstream."""
    services = get_services()
    upstream = target.upstream
    history = services.health.get_history(target.name, upstream)
    upstream_state = services.resilience.upstream_states.get_or_create(upstream.settings)
    last = None if history is None else history.last
    tone, state = judge_result(last, upstream.key_refusal)
    messages = filter(None, (last.error if last else None, upstream.key_refusal))
    limit = upstream.settings.max_concurrent
    in_use = upstream_state.concurrency_limit.in_use
    counts = services.resilience.count_events(upstream.settings)
    learned = upstream.learned_quirks.describe()
    return UpstreamView(
        tone=tone,
        state=state,
        since=format_since(history.since) if history else "",
        checked=format_since(last.checked_at) if last else "",
        latency=last.latency * 1000 if last else None,
        errors=[shorten_message(message) for message in dict.fromkeys(messages)],
        models=last.model_count if last else None,
        breaker=describe_breaker(upstream_state),
        breaker_tone="good" if upstream_state.best_state == CLOSED else "bad",
        concurrency=f"{in_use} of {limit}" if limit else f"{in_use}, no limit",
        counts=[
            format_count(counts[name], title)
            for name, title in COUNTS
            if counts[name] or name in ("attempts", "failures")
        ],
        learned=list(describe_learned(learned))[:MAX_LEARNED_MODELS],
        more_learned=max(0, len(learned) - MAX_LEARNED_MODELS),
        chart=draw_history(list(history.results)) if history else None,
        endpoints=[
            describe_endpoint(each)
            for each in services.resilience.describe_endpoints(upstream.settings)
        ],
    )


def judge_result(last: ProbeResult | None, key_refusal: str | None) -> tuple[str, str]:
    """Return tone and state, in words, from the last check and the last refusal of the key."""
    if last is None:
        return "", "not checked yet"
    if not last.is_healthy:
        fault = FAULTS[last.fault or "host"]
        return "bad", "unreachable" if last.is_reachable is False else fault
    return ("bad", "key refused") if key_refusal else ("good", "reachable")


def format_count(count: int, title: str) -> str:
    """Return a count with its title, which may be a plural."""
    return f"{count} {title.removesuffix('s') if count == 1 else title}"


def describe_endpoint(state: Json) -> tuple[str, str, str]:
    """Return tone, name and state of one of several endpoints."""
    facts = [f"{state['concurrent']} requests now"]
    facts += [format_count(state[name], title) for name, title in COUNTS if state.get(name)]
    if state["breaker"] != CLOSED:
        facts.insert(0, f"breaker {state['breaker'].replace('_', ' ')}")
    for cooldown in state.get("cooldowns", [])[:MAX_SHOWN_COOLDOWNS]:
        model = f" for {shorten_value(cooldown['model'])}" if "model" in cooldown else ""
        time = f"{cooldown['seconds']} s"
        facts.insert(0, f"cooling down {time}{model} after a {cooldown['status']}")
    is_usable = state["breaker"] == CLOSED and "cooldowns" not in state
    name = f"host {state['host']}, key {state['key']}"
    return "good" if is_usable else "bad", name, ", ".join(facts)


def describe_breaker(upstream_state: UpstreamState) -> str:
    if upstream_state.best_state != OPEN:
        return upstream_state.best_state.replace("_", " ")
    breaker = upstream_state.breaker
    if breaker.state == OPEN:
        return f"open, tries again in {breaker.remaining_cooldown:.0f} s"
    return breaker.state.replace("_", " ")


def describe_learned(learned: dict[str, Json]) -> Iterator[tuple[str, str, str]]:
    """Yield model, quirks as JSON, and the time for which they are remembered."""
    for model, quirks in sorted(learned.items()):
        left = quirks.pop("seconds_left")
        yield shorten_value(model), shorten_message(json.dumps(quirks)), format_duration(left)


def draw_history(results: Sequence[ProbeResult]) -> HistoryChart:
    """Draw results, oldest first."""
    latencies = [result.latency for result in results if result.is_healthy]
    top = max(latencies, default=0.0) or 1.0
    lines: list[list[str]] = [[]]
    failures: list[str] = []
    for position, result in enumerate(results, HISTORY_SIZE - len(results)):
        x = f"{2 + position * 356 / (HISTORY_SIZE - 1):.1f}"
        if result.is_healthy:
            lines[-1].append(f"{x},{46 - 44 * result.latency / top:.1f}")
        else:
            failures.append(x)
            lines.append([])
    words = [f"{len(results)} check{'' if len(results) == 1 else 's'}"]
    words.append(f"since {format_clock(results[0].checked_at)}:")
    if latencies:
        words.append(f"median {1000 * median(latencies):.0f} ms,")
        words.append(f"at most {1000 * top:.0f} ms,")
    words.append(f"{len(failures)} failed")
    # A line of one point is not drawn, a line from a point to itself is.
    points = [" ".join(line * 2 if len(line) == 1 else line) for line in lines if line]
    return HistoryChart(points, failures, " ".join(words))


def shorten_message(message: str) -> str:
    """Return a message of an upstream in one line of bounded length."""
    text = " ".join(message.split())
    return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:MAX_MESSAGE_LENGTH]}…"


def format_since(timestamp: float) -> str:
    """Return a time, in Unix seconds, and how long ago it was."""
    return f"{format_clock(timestamp)}, {format_duration(time.time() - timestamp)} ago"


def format_clock(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%H:%M:%S} UTC"


def format_duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# -- registered models ----------------------------------------------------------------------------


class UpstreamModelRow(NamedTuple):
    """A registered model; ``view`` is None if it has no remote of its own."""

    name: str
    model: str
    address: str
    kind: str
    key: str
    view: UpstreamView | None


def describe_model(remote: RegisteredModel) -> UpstreamModelRow:
    """Return the row of a registered model, without asking its remote."""
    target = get_services().health_targets.make_target(remote)
    if not remote.host:
        return UpstreamModelRow(remote.name, remote.model, "", "", "", None)
    return UpstreamModelRow(
        name=remote.name,
        model=remote.model,
        address=describe_url(remote.host),
        kind=remote.kind,
        key="cannot be decrypted" if remote.locked else describe_key(remote.upstream),
        view=describe_state(target) if target else None,
    )


# -- the page -------------------------------------------------------------------------------------


@blueprint.get("/upstreams")
def list_upstreams() -> Response:
    """Show all upstreams with their last known states; ``?check`` asks them first."""
    services = get_services()
    is_whole = "check" in get_request().args  # the page of a browser without scripts
    if is_whole:
        services.health.check_all(services.settings.ready_ttl)
    targets = [
        services.health_targets.make_configured_target(settings)
        for settings in services.settings.upstreams
    ]
    remotes = services.registry.list_models()
    return render_page(
        "upstreams.html",
        upstreams=[(describe_settings(each.upstream), describe_state(each)) for each in targets],
        models=[describe_model(remote) for remote in remotes[:MAX_ROWS]],
        more_models=max(0, len(remotes) - MAX_ROWS),
        why_no_models=make_disabled_error().message if services.database is None else "",
        usage=try_collect_usage() if is_whole else None,
        saved=find_saved_name(),
        deleted="deleted" in get_request().args,
        process=os.getpid(),
    )


def find_saved_name() -> str | None:
    """Return the registered model that ``?saved=`` names, if there is one."""
    remote = get_services().registry.find(get_request().args.get("saved", ""))
    return None if remote is None else remote.name


@blueprint.get("/upstreams/states/<path:name>")
def show_upstream_state(name: str) -> Response:
    """Check an upstream and return the part of the page with its state."""
    services = get_services()
    target = find_target(name)
    services.health.check_target(target, services.settings.ready_ttl)
    return render_page("upstream_state.html", view=describe_state(target))


def find_target(name: str) -> HealthTarget:
    """Return the target of a configured upstream or of a registered model's remote.

    Raises NotFound.
    """
    services = get_services()
    for settings in services.settings.upstreams:
        if settings.name == name:
            return services.health_targets.make_configured_target(settings)
    remote = services.registry.find(name)
    target = None if remote is None else services.health_targets.make_target(remote)
    if target is None:
        raise NotFound(f"There is no upstream '{shorten_value(name)}'.")
    return target


# -- the probe of quirks --------------------------------------------------------------------------


class ProbeRun:
    """A probe for a page that is sent while it runs. ``failure`` says why it ended early."""

    def __init__(self, probe: QuirkProbe, settings: UpstreamSettings) -> None:
        self.failure = ""
        self.model = probe.model
        self._probe = probe
        self._settings = settings

    def iterate_verdicts(self) -> Iterator[ProbeVerdict]:
        """Yield the verdicts as they come."""
        started_at = time.monotonic()
        try:
            for verdict in self._probe.run():
                yield verdict._replace(text=shorten_message(verdict.text))
                if time.monotonic() - started_at > MAX_PROBE_SECONDS:
                    self.failure = f"Stopped after {MAX_PROBE_SECONDS:.0f} seconds."
                    return
        except ForwarderError as error:
            self.failure = shorten_message(error.message)

    @property
    def quirks(self) -> str:
        """The changes of the profile as JSON, or ``""`` without any."""
        changes = self._probe.collect_changes()
        return json.dumps(serialize_changes(changes)) if changes else ""

    @property
    def setting(self) -> str:
        """The line of the environment with these changes."""
        return format_quirks_setting(self._settings, self._probe.collect_changes())


@blueprint.get("/upstreams/probes/<path:name>")
def show_probe(name: str) -> Response:
    """Show the form that starts a probe."""
    return render_probe_form(find_target(name))


@blueprint.post("/upstreams/probes/<path:name>")
def run_probe(name: str) -> Response:
    """Probe an upstream and send the verdicts as they come."""
    target = find_target(name)
    settings = target.upstream.settings
    model = read_form_field("model") or target.model  # may raise, so before a slot is taken
    release = _running_probes.acquire()
    if release is None:
        raise Overloaded(f"This worker already runs {MAX_PROBES} probes. Wait for one to end.")
    with ExitStack() as resources:
        resources.callback(release)
        connection = get_services().registration.connect_for_probe(settings)
        resources.callback(connection.close)
        try:
            probe = QuirkProbe(connection, model or pick_model(connection))
        except ForwarderError as error:
            return render_probe_form(target, error)
        page = stream_page(
            "probe.html",
            **collect_probe_values(target),
            model=probe.model,
            failure=None,
            run=ProbeRun(probe, settings),
        )
        page.call_on_close(resources.pop_all().close)
    return page


def render_probe_form(target: HealthTarget, failure: ForwarderError | None = None) -> Response:
    """Render the form that starts a probe, with the error of the last attempt."""
    page = render_page(
        "probe.html",
        **collect_probe_values(target),
        model=read_form_field("model") or target.model or "",
        failure=shorten_message(failure.message) if failure else None,
        run=None,
    )
    page.status_code = failure.status if failure else 200
    return page


def collect_probe_values(target: HealthTarget) -> Json:
    settings = target.upstream.settings
    return {
        "facts": describe_settings(target.upstream),
        "is_registered": settings.registered,
        "is_passthrough": settings.passthrough_key,
        "aliases": sorted(set(settings.aliases.values())),
        "probe_count": len(PROBES),
    }


@blueprint.post("/upstreams/quirks/<path:name>")
def use_quirks(name: str) -> Response | Redirect:
    """Use the quirks that a probe found.

    A registered model stores them. A configured upstream takes them from the environment, so this
    worker only uses them as if it had learned them from refusals.
    """
    target = find_target(name)
    upstream = target.upstream
    changes = read_quirks(read_form_field("quirks"))
    if upstream.settings.registered:
        get_services().registration.add_quirks(target.name, serialize_changes(changes))
        return redirect(url_for("console.list_upstreams", saved=target.name), 303)
    model = read_form_field("model")
    if not model:
        raise InvalidRequest("Name the model.", param="model")
    upstream.learned_quirks.remember(model, changes)
    return render_page(
        "quirks_used.html",
        facts=describe_settings(upstream),
        model=shorten_value(model),
        hours=MAX_AGE_SECONDS / 3600,
        process=os.getpid(),
        setting=format_quirks_setting(upstream.settings, changes),
    )


def read_quirks(text: str) -> ProfileChanges:
    """Parse quirks as a probe reports them; raises InvalidRequest."""
    try:
        quirks = parse_quirks(text)
    except ValueError as error:
        raise InvalidRequest(f"The quirks must be {error}.", param="quirks") from None
    if not quirks or not quirks.keys() <= PROFILE_FIELDS - {"models", "learn"}:
        raise InvalidRequest("The quirks must be those that a probe reports.", param="quirks")
    return convert_types(quirks)

"""Finds the quirks of a Chat upstream: sends it the requests of `quirk_probe_requests.py`.

Each probe starts with the profile that the earlier ones found. A refusal changes the profile, and
the probe is sent again. The command ``forwarder probe`` and the console use this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, InvalidRequest, UpstreamRefused
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.protocols.chat import CHAT
from forwarder.providers.adapt import adapt_request
from forwarder.providers.learn import infer_quirk
from forwarder.providers.learned_cache import serialize_changes
from forwarder.providers.profile import Profile, ProfileChanges
from forwarder.providers.quirk_probe_requests import (
    MAX_REFUSALS,
    PROBES,
    diff_profiles,
    make_openai_profile,
    make_probe_request,
)
from forwarder.upstream.client import Upstream

LIST_TIMEOUT_SECONDS = 5.0
"""Time-out of the model list if no model is named."""

_MAX_QUOTED_CHARACTERS = 200
"""Characters of a refusal that a verdict quotes."""


class ProbeVerdict(NamedTuple):
    """Whether the upstream accepts a feature; ``text`` says how, or quotes the refusal."""

    feature: str
    is_accepted: bool
    text: str


class QuirkProbe:
    """Probes one model of a Chat upstream. Raises InvalidRequest for an upstream without Chat."""

    def __init__(self, upstream: Upstream, model: str) -> None:
        if CHAT.name not in upstream.settings.apis:
            raise InvalidRequest(
                f"The upstream '{upstream.settings.name}' cannot be probed: the probes are "
                "requests of the Chat Completions API, which it does not speak."
            )
        self.model = model
        self._upstream = upstream
        self._profile = make_openai_profile(upstream.profile)

    def run(self) -> Iterator[ProbeVerdict]:
        """Send all probes and yield their verdicts as they come.

        Raises a ForwarderError if the upstream cannot be reached, refuses the key, or fails.
        """
        for feature in PROBES:
            self._profile, verdict = self._try_feature(feature, self._profile)
            yield verdict

    def collect_changes(self) -> ProfileChanges:
        """Return the profile changes that the probes have found so far."""
        return diff_profiles(self._profile, self._upstream.profile)

    def _try_feature(self, feature: str, profile: Profile) -> tuple[Profile, ProbeVerdict]:
        """Return a profile with which the upstream accepts the feature, and a verdict."""
        body, tried = make_probe_request(feature, self.model), profile
        for attempt in range(MAX_REFUSALS):
            try:
                self._send(body, tried)
            except UpstreamRefused as refusal:
                sent = adapt_request(body, CHAT.name, tried, LossReport())
                quirk = infer_quirk(refusal, CHAT.name, sent, tried)
                if quirk is None:
                    quote = refusal.message[:_MAX_QUOTED_CHARACTERS]
                    text = f"rejected, no known quirk helps ({quote})"
                    return profile, ProbeVerdict(feature, False, text)
                tried = replace(tried, **quirk.changes)
            else:
                text = "accepted with quirks" if attempt else "accepted"
                return tried, ProbeVerdict(feature, True, text)
        return profile, ProbeVerdict(feature, False, "rejected despite quirks")

    def _send(self, body: Json, profile: Profile) -> None:
        context = RequestContext(generate_id("probe"), "probe", LossReport())
        try:
            for _ in self._upstream.send(body, CHAT.name, profile, context):
                pass
        except UpstreamRefused:
            raise
        except ForwarderError as error:
            if error.code != "upstream_protocol":
                raise  # a malformed response still shows that the upstream accepted the request
        finally:
            context.cleanup.close()


def pick_model(upstream: Upstream) -> str:
    """Return the model of the first alias or, without aliases, the first listed model.

    Raises InvalidRequest if the upstream lists none, or the error of the list.
    """
    for model in upstream.settings.aliases.values():
        return model
    for listed in upstream.list_models(LIST_TIMEOUT_SECONDS):
        return str(listed["id"])
    raise InvalidRequest(
        f"The upstream '{upstream.settings.name}' lists no models: name the model to probe.",
        param="model",
    )


def format_quirks_setting(settings: UpstreamSettings, changes: ProfileChanges) -> str:
    """Return the line ``<NAME>_QUIRKS={…}`` of the environment."""
    return f"{settings.name_variable('QUIRKS')}={json.dumps(serialize_changes(changes))}"

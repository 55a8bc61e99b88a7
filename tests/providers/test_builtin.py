"""The table of providers."""

from __future__ import annotations

from forwarder.providers import PROFILES, Profile, builtin, validate_quirks
from forwarder.providers.profile import PROFILE_FIELDS
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import REQUEST_PARAMETERS


@check_each("profile", PROFILES.values(), ids=PROFILES)
def test_builtin_profiles_are_valid(profile: Profile) -> None:
    validate_quirks({name: getattr(profile, name) for name in PROFILE_FIELDS})
    for drop in (
        profile.drop,
        *(overrides.get("drop", set()) for overrides in profile.models.values()),
    ):
        assert drop <= REQUEST_PARAMETERS["chat"] | REQUEST_PARAMETERS["responses"]
        assert not drop & {"model", "messages", "input", "tools", "stream"}
    assert not profile.responses_takes & REQUEST_PARAMETERS["responses"]
    assert not profile.responses_takes & profile.drop
    assert not profile.chat_takes & (REQUEST_PARAMETERS["chat"] | profile.drop)


def test_names_and_hosts_of_profiles_are_unique() -> None:
    names = [profile.name for profile in builtin._ALL_PROFILES]
    hosts = [host for profile in builtin._ALL_PROFILES for host in profile.hosts]
    assert len({*names}) == len(names)
    assert len({*hosts}) == len(hosts)

"""The media functions of an attempt: fetch URLs, upload files, download files."""

from __future__ import annotations

from functools import partial

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.data_urls import Blob, detect_type
from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.middleware.media import MediaIO, download
from forwarder.pipeline.dry_run import DryRun
from forwarder.services import Services
from forwarder.upstream.files import PassthroughResponse


def build_media_io(services: Services, route: Route, context: RequestContext) -> MediaIO:
    """The media functions for an attempt over ``route``."""
    return MediaIO(
        services.make_fetch(context),
        partial(upload_file, services, route, context),
        partial(download_file, services, route, context),
        stores_client_files(services, route),
        partial(read_stored_file, services, context) if services.stores_files else None,
    )


def build_dry_media_io(
    services: Services, route: Route, run: DryRun, context: RequestContext
) -> MediaIO:
    """The media functions for a dry run, which give placeholders."""
    fetch = run.fetch if services.make_fetch(context) else None
    return MediaIO(fetch, run.upload, run.download, stores_client_files(services, route))


def stores_client_files(services: Services, route: Route) -> bool:
    """Return whether the upstream of ``route`` stores clients' files."""
    return services.router.default_file_upstream in (None, route.upstream.name)


def upload_file(
    services: Services, route: Route, context: RequestContext, blob: Blob, path: str
) -> str:
    """The upstream's file id of ``blob``; uploads it if the upstream does not have it."""
    key = context.client_key if route.upstream.passthrough_key else None
    uploads = services.uploads.get_or_create(route.upstream)
    get_file_id = partial(uploads.get_file_id, blob, context, key)
    state = services.resilience.upstream_states.get_or_create(route.upstream)
    return state.run_with_retries(get_file_id, context)


def read_stored_file(
    services: Services, context: RequestContext, file_id: str, path: str
) -> Blob | None:
    """Return the client's own file in the database, or None for an unknown id.

    Raises InvalidRequest if it is larger than FORWARDER_FETCH_MAX.
    """
    owner, files = services.owners.find_owner(context.client_key), services.require_files()
    try:
        file = files.find(owner, file_id)
    except NotFound:
        return None
    if file.size > services.settings.fetch_max:
        raise InvalidRequest(
            f"Invalid value for '{path}': the file is too large.", param=path, code="invalid_value"
        )
    data = b"".join(files.iterate_content(owner, file_id))
    return Blob(data, detect_type(data, None, file.filename), file.filename)


def download_file(
    services: Services, route: Route, context: RequestContext, file_id: str, path: str
) -> Blob:
    """Return a file from the upstream that stores clients' files, or from the route's upstream."""
    upstreams = services.upstreams
    # Clients' files are at the first endpoint, even if this attempt calls another one.
    name = services.router.default_file_upstream or route.upstream.name
    upstream = upstreams.get(name) or upstreams.get_or_create(route.upstream)

    def get_file(what: str) -> PassthroughResponse:
        return upstream.files.passthrough("GET", what, {}, context)

    return download(get_file, file_id, path, services.settings.fetch_max)

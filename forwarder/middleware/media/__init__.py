"""Converts images and files in requests to a form that the upstream accepts.

`locations.py` finds images and files in a request, and `stage.py` decides by the provider profile
whether each is passed on, fetched, inlined, uploaded or rejected. `fetch.py` fetches URLs, with
name look-ups in `dns_lookups.py`. `uploads.py` uploads files to upstreams that accept them only by
id, and `downloads.py` downloads files from the upstream that has them.
"""

from forwarder.core.ssrf import AddressGuard
from forwarder.middleware.media.downloads import download
from forwarder.middleware.media.fetch import Fetcher
from forwarder.middleware.media.stage import MediaIO, with_media
from forwarder.middleware.media.uploads import UploadCache

__all__ = ["AddressGuard", "Fetcher", "MediaIO", "UploadCache", "download", "with_media"]

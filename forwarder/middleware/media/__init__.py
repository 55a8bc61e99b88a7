"""Images and files on their way upstream: handed on, fetched, inlined, uploaded or refused.

`places.py` finds them in a request, `policy.py` decides by the upstream's profile what becomes of
each.  `data.py` reads and writes data URLs, `fetch.py` fetches what only has an address, as far as
`addresses.py` lets it, `uploads.py` brings files to
upstreams that take them only by id, and `downloads.py` gets them from there.
"""

from forwarder.core.ssrf import AddressGuard
from forwarder.middleware.media.downloads import download
from forwarder.middleware.media.fetch import Fetcher
from forwarder.middleware.media.policy import MediaIO, with_media
from forwarder.middleware.media.uploads import UploadCache

__all__ = ["AddressGuard", "Fetcher", "MediaIO", "UploadCache", "download", "with_media"]

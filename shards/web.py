"""Reading from web servers, without credentials: `https://` and `http://`."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import quote, urlsplit

from understudy.shards.errors import UserError
from understudy.shards.redact import protect_logs
from understudy.shards.remote import (
    CONNECT_S,
    SILENCE_S,
    ChangedError,
    MissingError,
    PassingError,
    Remote,
    Reply,
    byte_range,
    connection_failed,
)


@functools.cache
def _pool(process: int, proxy: str | None, silence_s: float) -> Any:
    """Connections of process number `process`: a forked child that went on with its parent's would mix up answers."""
    import urllib3

    timeout = urllib3.Timeout(connect=CONNECT_S, read=silence_s)
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)
    settings: dict[str, Any] = {"timeout": timeout, "retries": retries, "maxsize": 64}
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def get(remote: Remote, start: int, etag: str | None, end: int | None = None, silence_s: float | None = None) -> Reply:
    """Ask for the object from byte `start` on, or up to byte `end`, and only if its ETag is still `etag`. No byte
    may be more than `silence_s` in coming.

    Raises UserError where trying again is of no use, PassingError or ChangedError.
    """
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    protect_logs()
    parts = urlsplit(remote.url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    headers = {"Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = byte_range(start, end)
    if start and etag:
        headers["If-Match"] = etag
    url = f"{parts.scheme}://{parts.netloc}{quote(parts.path, safe='/%')}"
    try:
        pool = _pool(os.getpid(), proxy, silence_s or SILENCE_S)
        stream = pool.request("GET", url, headers=headers, preload_content=False)
    except urllib3.exceptions.LocationParseError:
        raise UserError(f"{remote}: not an address; use https://host/path") from None
    except urllib3.exceptions.HTTPError as error:
        raise connection_failed(remote, parts.netloc, error) from None
    if stream.status not in (200, 206):
        stream.close()
        raise _refused(remote, stream.status)
    return Reply(stream.status, {name.lower(): value for name, value in stream.headers.items()}, stream)


def _refused(remote: Remote, status: int) -> Exception:
    if status in (404, 410):
        return MissingError(f"{remote}: there is no such file; check the address")
    if status in (401, 403):
        return UserError(
            f"{remote}: access denied; https:// is read without credentials: make it public, or use s3:// with a key"
        )
    if status in (412, 416):
        return ChangedError("it was replaced while it was read" if status == 412 else "it is shorter than it should be")
    if status in (408, 425, 429) or status >= 500:
        return PassingError(f"the server answers {status}")
    return UserError(f"{remote}: the server answers {status}; check the address")

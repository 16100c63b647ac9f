"""Addresses of corpora that lie elsewhere, and what any server answers to a GET: a reply or one of a few exceptions.

Requests are made in s3.py and web.py; trying again, resuming and checking what came is in fetch.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from understudy.shards.errors import UserError

CONNECT_S, SILENCE_S = 5.0, 10.0  # longest wait for a connection, and for the next byte
PIECE = 1 << 20


class PassingError(Exception):
    """Something that may not happen again: worth another try. Its text says what, without an address."""


class ExpiredError(PassingError):
    """The credentials are no longer accepted; new ones may be."""


class ChangedError(Exception):
    """What lies there is not, or no longer, the object that is asked for. Its text says how that shows."""


class MissingError(UserError):
    """There is no such object."""


@dataclass(frozen=True)
class Remote:
    """A prefix or an object in a bucket or on a web server: its address, which never holds credentials."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path; of a bucket, its name."""
        return self.url.rpartition("/")[2]


Address = Path | Remote  # of a folder or a file; both join names with `/`


def parse_address(text: str | Path | Remote) -> Address:
    """A local path, or a Remote for `s3://bucket/prefix`, `https://host/path` and `http://host/path`.

    Raises UserError for other schemes, and for an address with credentials in it, which is not repeated.
    """
    if not isinstance(text, str):
        return text
    scheme, mark, rest = text.partition("://")
    if not mark or not re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return Path(text)
    scheme = scheme.lower()
    rest = re.sub("[\t\r\n]", "", rest)  # as urlsplit does
    whole = re.split("[?#]", rest, maxsplit=1)[0].rstrip("/")
    try:
        parts = urlsplit(f"{scheme}://{whole}")
        sound = parts.port is None or scheme != "s3"
    except ValueError:  # of the host, the port or the brackets around an address
        sound = False
    # Before anything is said of it: what stands before @, even with a slash in it, or after ? may be a password.
    secretive = "@" in whole and (not sound or "@" in whole.partition("/")[0])
    bare = f"{scheme}://{whole.rpartition('@')[2] if secretive else whole}"
    if secretive or "?" in rest or "#" in rest:
        raise UserError(
            f"{bare}: leave out what stands before @ and after ?, the address is logged and seen by all; "
            "credentials come from the environment or ~/.aws"
        )
    if scheme == "gs":
        raise UserError(
            f"{bare}: Google Cloud Storage is read through its S3 interface; use s3://{whole} "
            "with AWS_ENDPOINT_URL=https://storage.googleapis.com and an HMAC key"
        )
    if scheme not in ("s3", "http", "https"):
        raise UserError(f"{bare}: no way to read {scheme}://; use a folder, s3://bucket/prefix or https://host/path")
    if whole.startswith("/") or not whole:
        raise UserError(f"{bare}: names no {'bucket' if scheme == 's3' else 'host'}; use s3://bucket/prefix")
    if not sound:
        raise UserError(f"{bare}: not an address; use s3://bucket/prefix or https://host/path")
    return Remote(bare)


class Reply:
    """The answer to a GET: `start` of what it sends in the object, `etag` if it can be used to resume, and the body.

    `length` is the body's size and `total` the object's, as far as the server says so.
    """

    def __init__(self, status: int, headers: Mapping[str, str], stream: Any) -> None:
        """`headers` with lower-case names; `stream` is a urllib3 response."""
        self._stream = stream
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
        if status == 206 and not found:
            stream.close()
            raise PassingError("the server does not say which part of the object it sends")
        self.start = int(found[1]) if found else 0
        self.total = int(found[2]) if found and found[2] != "*" else None
        length = headers.get("content-length", "")
        self.length = int(length) if length.isdecimal() else None
        etag = headers.get("etag")
        self.etag = None if etag is None or etag.startswith("W/") else etag  # a weak one never matches

    def read(self) -> bytes:
        """What has arrived, at least one byte and at most 1 MiB; empty at the end. Raises PassingError."""
        import urllib3

        try:
            # Returns after one recv. A read of a fixed size would let a server that trickles hold on for hours.
            return self._stream.read1(PIECE, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            raise PassingError(f"no byte came for {SILENCE_S:.0f} s") from None
        except (urllib3.exceptions.HTTPError, OSError):
            raise PassingError("the connection broke") from None

    def close(self) -> None:
        """Keep the connection for the next request if the body was read to its end."""
        if self._stream.length_remaining == 0:
            self._stream.release_conn()
        else:
            self._stream.close()


def byte_range(start: int, end: int | None) -> str:
    """The value of a Range header; `end` is the first byte that is not wanted."""
    return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def connection_failed(remote: Remote, host: str, error: Exception) -> Exception:
    """What to raise for an `error` that came before any answer. The libraries' own texts may hold whole addresses."""
    text = f"{error} {getattr(error, 'kwargs', {}).get('error', '')}"  # botocore keeps the cause there
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return UserError(f"{remote}: the certificate of {host} is not trusted; set SSL_CERT_FILE or AWS_CA_BUNDLE")
    for sign, words in _CONNECTION_SIGNS.items():
        if sign in text:
            return PassingError(words.format(host=host))
    return PassingError(f"no connection to {host}")


_CONNECTION_SIGNS = {
    "Name or service not known": "the name of {host} is not known",
    "Failed to resolve": "the name of {host} is not known",
    "Connection refused": "nobody listens at {host}",
    "Connect timeout": "no connection to {host} within 5 s",
    "timed out": "no answer from {host} within 10 s",
    "Read timeout": "no answer from {host} within 10 s",
}

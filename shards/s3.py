"""S3 and what speaks its language, through boto3: it finds credentials, endpoint and region, and signs.

boto3 is told not to retry: it does so up to the headers only, and fetch.py has to do it for the body anyway.
"""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any, cast

from understudy.shards.credentials import find_credentials
from understudy.shards.errors import UserError
from understudy.shards.redact import protect_logs
from understudy.shards.remote import (
    CONNECT_S,
    SILENCE_S,
    ChangedError,
    ExpiredError,
    MissingError,
    PassingError,
    Remote,
    Reply,
    byte_range,
    connection_failed,
)

LARGEST_PUT = 5 << 30  # the protocol's
STORING_S = 60.0  # a store may think for a while after the last byte

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"}
_NOT_GOT = {"CredentialRetrievalError", "MetadataRetrievalError"}
_PASSING = {"SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable", "BadDigest", "OperationAborted"}

_clients: dict[tuple[int, float], Any] = {}  # by process, for a client does not survive a fork, and longest silence
_signing = False  # whether this process has ever had credentials
_lock = threading.Lock()


def _client(silence_s: float) -> Any:
    with _lock:
        key = (os.getpid(), silence_s)
        client = _clients.get(key)
        if client is None:
            client = _clients[key] = _make_client(silence_s)
        return client


def _forget(client: Any) -> None:
    """The next request makes a new client, which looks for credentials afresh. Others may have done so already."""
    with _lock:
        for key in [key for key, kept in _clients.items() if kept is client]:
            del _clients[key]


def _make_client(silence_s: float) -> Any:
    global _signing  # noqa: PLW0603
    import boto3  # pyright: ignore[reportMissingTypeStubs]
    import botocore.session  # pyright: ignore[reportMissingTypeStubs]
    from botocore import UNSIGNED  # pyright: ignore[reportMissingTypeStubs]
    from botocore.config import Config  # pyright: ignore[reportMissingTypeStubs]
    from botocore.exceptions import BotoCoreError  # pyright: ignore[reportMissingTypeStubs]

    protect_logs()
    try:
        core = cast(Any, botocore.session).get_session()
        credentials = find_credentials(core)
        if credentials is None and _signing:  # what could be had before: a store would say "denied" without
            raise PassingError("no credentials could be got")
        _signing = credentials is not None
        settings: dict[str, Any] = {
            "connect_timeout": CONNECT_S,
            "read_timeout": silence_s,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": 64,
            # Checksums in trailers are refused by other stores than Amazon's. The manifest has the digests.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        if credentials is None:
            settings["signature_version"] = UNSIGNED  # a public bucket can be read without
        if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            settings["s3"] = {"addressing_style": "path"}  # other stores seldom have a host name for each bucket
        session = cast(Any, boto3.Session(botocore_session=core))
        region = session.region_name or "us-east-1"
        return session.client("s3", region_name=region, config=Config(**settings))
    except BotoCoreError as error:
        if type(error).__name__ in {*_NOT_GOT, "RefreshWithMFAUnsupportedError"}:
            raise PassingError("no credentials could be got") from None
        raise UserError(f"S3 can't be set up ({type(error).__name__}); check ~/.aws and the AWS_ variables") from None
    except ValueError:  # botocore says so of an endpoint that is not a URL, and repeats it
        raise UserError("AWS_ENDPOINT_URL is not an address; use https://host or http://host:port") from None


def get(remote: Remote, start: int, etag: str | None, end: int | None = None, silence_s: float | None = None) -> Reply:
    """Ask for the object from byte `start` on, or up to byte `end`, and only if its ETag is still `etag`. No byte
    may be more than `silence_s` in coming.

    Raises UserError where trying again is of no use, PassingError or ChangedError.
    """
    ranged: dict[str, str] = {}
    if start or end is not None:
        ranged["Range"] = byte_range(start, end)
    if start and etag:
        ranged["IfMatch"] = etag
    answer = _call("get_object", remote, ranged, silence_s)
    told = answer["ResponseMetadata"]
    # boto3's own body would wait for as many bytes as it is asked for, however slowly they come.
    return Reply(told["HTTPStatusCode"], told["HTTPHeaders"], answer["Body"]._raw_stream)


def size_and_etag(remote: Remote) -> tuple[int, str] | None:
    """What lies there, or None. The ETag is the hex MD5 of what `put` has put, in most stores."""
    try:
        answer = _call("head_object", remote, {})
    except MissingError:
        return None
    return int(answer["ContentLength"]), str(answer.get("ETag", "")).strip('"')


def put(remote: Remote, path: Path, md5: bytes) -> None:
    """Store a file under `remote`; the store checks it against `md5` before the object appears."""
    with path.open("rb") as file:
        settings = {"Body": file, "ContentMD5": base64.b64encode(md5).decode()}
        _call("put_object", remote, settings, silence_s=STORING_S)


def _call(operation: str, remote: Remote, settings: dict[str, Any], silence_s: float | None = None) -> dict[str, Any]:
    """One request. Raises UserError, PassingError or ChangedError, whose texts hold no credentials."""
    from botocore.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    bucket, _, key = remote.url.removeprefix("s3://").partition("/")
    client = _client(silence_s or SILENCE_S)
    try:
        return getattr(client, operation)(Bucket=bucket, Key=key, **settings)
    except ClientError as error:
        raised = _refused(remote, bucket, client, cast("dict[str, Any]", error.response))
    except (NoCredentialsError, PartialCredentialsError):
        raised = UserError(f"{remote}: half a credential is no use; set both key and secret (AWS_..., ~/.aws)")
    except BotoCoreError as error:
        raised = _failed(remote, client, error)
    except OSError as error:
        raised = PassingError(f"the connection broke ({os.strerror(error.errno)})" if error.errno else "it broke")
    raise raised


def _refused(remote: Remote, bucket: str, client: Any, response: dict[str, Any]) -> Exception:
    """The exception for an error response. Its message is left out: nobody knows what a store puts there."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    endpoint = client.meta.endpoint_url
    if code in _EXPIRED:
        _forget(client)
        return ExpiredError("the credentials have expired")
    if code == "NoSuchBucket":
        return UserError(f"{remote}: no bucket {bucket} at {endpoint}; check the name and AWS_ENDPOINT_URL")
    if code in ("NoSuchKey", "404") or status == 404:
        return MissingError(f"{remote}: there is no such object; check the address")
    if code == "RequestTimeTooSkewed":
        return UserError(f"{remote}: refused, for this machine's clock is wrong by over 15 minutes; set it (NTP)")
    if code in _WRONG_KEY:
        return UserError(f"{remote}: {endpoint} does not know this key, or its secret is another; check AWS_PROFILE")
    if status in (412, 416) or code in ("PreconditionFailed", "InvalidRange"):
        gone = status == 412 or code == "PreconditionFailed"
        return ChangedError("it was replaced while it was read" if gone else "it is shorter than it should be")
    if status in (401, 403):
        return UserError(f"{remote}: access denied; {_denial_hint(client)}")
    if code in _PASSING or status in (408, 425, 429) or status >= 500:
        return PassingError(f"the server answers {status} {code}".rstrip())
    return UserError(f"{remote}: the server answers {status} {code}; check bucket, region and AWS_ENDPOINT_URL")


def _denial_hint(client: Any) -> str:
    from botocore import UNSIGNED  # pyright: ignore[reportMissingTypeStubs]

    if client.meta.config.signature_version is UNSIGNED:
        return "no credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "check AWS_PROFILE, the key, its secret and its rights (without the right to list, it may just not be there)"


def _failed(remote: Remote, client: Any, error: Exception) -> Exception:
    """The exception for a request that got no answer."""
    kind = type(error).__name__
    if kind in _NOT_GOT:
        return PassingError("no credentials could be got")
    if kind == "TokenRetrievalError" or kind.startswith("SSO") or kind == "UnauthorizedSSOTokenError":
        return UserError(f"{remote}: the login has expired; run: aws sso login")
    if kind in ("ParamValidationError", "InvalidBucketName"):
        return UserError(f"{remote}: not a bucket name that S3 allows; use s3://bucket/prefix")
    return connection_failed(remote, client.meta.endpoint_url, error)

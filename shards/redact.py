"""Keeps credentials out of logs. The libraries that sign requests print key ids, tokens and signatures at DEBUG."""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any

HIDDEN = "***"
LIBRARIES = {"boto3", "botocore", "s3transfer", "urllib3", "understudy"}

_FIELDS = (
    r"(Credential=)[^/,&\s\"']+",
    r"(Signature(?:=|:\s*))[0-9A-Za-z%+/=]+",
    r"(security-token[\"']?\s*[:=]\s*b?[\"']?)[^\"'\s&,}]+",
    r"(authorization[\"']?\s*[:=]\s*b?[\"']?)[^\"'\r\n]+",
    r"((?:SecretAccessKey|SessionToken|AccessKeyId|secret_access_key|session_token|access_key_id)"
    r"[\"']?\s*[>:=]\s*b?[\"']?)[^\"'\s<,}]+",
    r"(://)[^/@\s\"']+(?=@)",
    r"(\?)[^\s\"'?]*=[^\s\"']*",  # the query of an address: a redirect may lead to a presigned one
    r"((?:AKIA|ASIA))[A-Z0-9]{12,}",
)
_PATTERN = re.compile("|".join(_FIELDS), re.IGNORECASE)
_known: set[str] = set()


def hide(*values: str | None) -> None:
    """From now on, blank these strings out, wherever they stand."""
    _known.update(value for value in values if value and len(value) >= 4)


def redact(text: str) -> str:
    """`text` without credentials: those that were hidden, and whatever looks like one."""
    for value in _known.copy():
        text = text.replace(value, HIDDEN)
    return _PATTERN.sub(lambda found: (found.group(found.lastindex or 0)) + HIDDEN, text)


def protect_logs() -> None:
    """Redact every record of LIBRARIES in this process, before any handler sees it and at any level.

    Filters would not do: those of a logger are not asked about its children's records, and those of a handler only
    help where somebody put them.
    """
    previous = logging.getLogRecordFactory()
    if getattr(previous, "redacts", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = previous(*args, **kwargs)
        if record.name.partition(".")[0] in LIBRARIES:
            record.msg, record.args = redact(record.getMessage()), None
            if record.exc_info and record.exc_info[0]:
                record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
                record.exc_info = None
        return record

    factory.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)

"""`audit.json` beside a manifest: how it is bound to the corpus, and refusing a corpus whose audit does not suffice.

What an audit does is in `privacy/`; training needs only this.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import read_address
from understudy.shards.files import write_atomic
from understudy.shards.remote import Address, MissingError

AUDIT = "audit.json"
# 1 had bounds on clips that were too small, and names of files; 2 such bounds on frames, where frames were left out or
# canaries could not be looked at.
AUDIT_FORMAT = 3
CONFIDENCE = 0.95  # least that training asks for


def seal(body: dict[str, Any]) -> str:
    """Hex SHA-256 of an audit but for its own seal. Tells damage and careless edits, not forgery: it has no secret."""
    canonical = json.dumps({k: v for k, v in body.items() if k != "seal"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def save_audit(folder: Path, body: dict[str, Any]) -> Path:
    """Write `audit.json` into `folder` with its seal."""
    path = folder / AUDIT
    body = {"format": AUDIT_FORMAT, **body}
    write_atomic(path, (json.dumps({**body, "seal": seal(body)}, indent=1) + "\n").encode())
    return path


def load_audit(root: Address, digest: str) -> dict[str, Any]:
    """The audit of the corpus at `root` whose manifest has `digest`.

    Raises MissingError where there is none, UserError where it is of another corpus or not as it was written.
    """
    path = root / AUDIT
    try:
        text = read_address(path)
    except (FileNotFoundError, MissingError):
        raise MissingError(f"{root}: no {AUDIT} there; run: understudy audit {root} --canaries FOLDER") from None
    try:
        body = cast("dict[str, Any]", json.loads(text))
        if body["format"] != AUDIT_FORMAT or body["seal"] != seal(body):
            raise ValueError
        audited = cast(str, body["digest"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path}: not an audit as it was written; run: understudy audit {root}") from None
    if audited != digest:
        raise UserError(f"{path}: is of a corpus with another digest; run: understudy audit {root}")
    return body


def require_audit(corpus: Corpus, limit: float) -> None:
    """Raise UserError unless the audit beside `corpus` says that at most `limit` of its frames show somebody.

    The bound is the one of frames, upper, with CONFIDENCE or more. An audit without canaries has none. Nor may there
    be findings beyond pixels. Corpora of kind synthetic pass: the people in them are meant to be there.
    """
    if corpus.manifest.kind == "synthetic":
        return
    body = load_audit(corpus.root, corpus.manifest.digest)
    path = corpus.root / AUDIT
    try:
        found = ", ".join(row["what"] for row in body["findings"])
        confidence, bound = float(body["confidence"]), body["frames"]["bound"]
        bound = None if bound is None else float(bound)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not an audit as it is written; run: understudy audit {corpus.root}") from None
    if found:
        raise UserError(f"{path}: found more than pixels ({found}); take it out, and audit the corpus again")
    if not confidence >= CONFIDENCE:  # so put, NaN does not pass
        raise UserError(
            f"{path}: its bound holds with {confidence:.0%} confidence only; audit it again with "
            f"--confidence {CONFIDENCE:g}"
        )
    if bound is None:
        raise UserError(f"{path}: has no bound, as no canaries were used; audit it again with --canaries")
    if not bound <= limit:
        raise UserError(
            f"{path}: up to {bound:.2g} of the frames may show somebody, more than {limit:g}; "
            "remove more people, or audit more clips with more canaries (the audit tells which)"
        )

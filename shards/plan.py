"""What is to be packed and where: the settings, their checks, and the work folder that outlives a kill."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import hmac
import json
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from understudy.shards.checks import FASTEST, NAME
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.kinds import KINDS, Codec, Kind
from understudy.shards.manifest import MANIFEST, MEMBERS, REFUSED, Manifest
from understudy.shards.sources import Source

WORK = ".packing"
PLAN = "plan.json"
LOCK = "lock"
SPENT = "lock.spent"

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class PackConfig:
    """What a corpus is to be. `fps` and `short_side` describe what the reader yields; `secret` keys the samples."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    licence: str
    secret: bytes = field(repr=False)
    codec: Codec = "mjpeg"
    fps: float = 6.0
    short_side: int = 256
    quality: int = 85
    samples_per_shard: int = 256
    removal: Mapping[str, Any] | None = None  # how people were removed, for KEY.json as it is; must be JSON


def check(sources: Sequence[Source], config: PackConfig) -> None:
    """Raise UserError at the first setting or source that can't be packed."""
    if not NAME.fullmatch(config.name):
        raise UserError(f"name {config.name!r}: use up to 64 letters, digits, - and _, it becomes a file name")
    if config.kind not in KINDS:
        raise UserError(f"kind {config.kind!r}: say one of {', '.join(KINDS)}")
    if config.codec not in MEMBERS:
        raise UserError(f"codec {config.codec!r}: say one of {', '.join(MEMBERS)}")
    if not 0 < config.fps <= FASTEST:
        raise UserError(f"fps {config.fps:g}: say a rate above 0 and up to {FASTEST}")
    if not 16 <= config.short_side <= 4096 or config.short_side % 2:
        raise UserError(f"short side {config.short_side}: say an even number of pixels from 16 to 4096")
    if not 1 <= config.quality <= 100:
        raise UserError(f"quality {config.quality}: say a number from 1 to 100")
    if config.samples_per_shard < 1:
        raise UserError(f"{config.samples_per_shard} samples per shard: say at least 1")
    if len(set(config.classes)) != len(config.classes):
        raise UserError("the same class name twice: every class needs a name of its own")
    for what, text in [("licence", config.licence), *(("class", name) for name in config.classes)]:
        try:
            text.encode()
        except UnicodeEncodeError:  # it came from a path or an argument
            raise UserError(f"{what} {text!r}: say it in UTF-8") from None
    if not sources:
        raise UserError("nothing to pack: no sources")
    counts = Counter(source.id for source in sources)
    for source in sources:
        if not 0 <= source.label < len(config.classes):
            last = len(config.classes) - 1
            raise UserError(f"{source.id}: label {source.label} is out of range, the classes are 0 to {last}")
        if counts[source.id] > 1:
            raise UserError(f"{source.id}: listed {counts[source.id]} times; list each source once")


def make_plan(sources: Sequence[Source], read: object, config: PackConfig) -> Plan:
    """All that decides the bytes of the corpus, as JSON that tells nothing of the sources without the secret."""
    listed = sorted((source.id, source.label, *([source.group] if source.group else [])) for source in sources)
    settings = {item.name: getattr(config, item.name) for item in fields(config) if item.name != "secret"}
    if config.removal is None:
        del settings["removal"]  # so that corpora packed before there was any are known again
    return {
        **settings,
        "classes": keyed_digest(config.secret, config.classes),
        "sources": keyed_digest(config.secret, listed),
        "secret": keyed_digest(config.secret, "understudy"),
        "reader": _describe(read),
    }


def keyed_digest(secret: bytes, value: Any) -> str:
    """Hex HMAC-SHA256 of a JSON value."""
    return hmac.new(secret, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _describe(read: Any) -> str:
    if isinstance(read, functools.partial):
        settings = [repr(value) for value in read.args] + [f"{k}={v!r}" for k, v in sorted(read.keywords.items())]
        return f"{_describe(read.func)}({', '.join(settings)})"
    return f"{read.__module__}.{read.__qualname__}"


def encoder_versions() -> dict[str, str]:
    """By package, what else decides the bytes of the corpus."""
    return {package: version(package) for package in ("understudy", "av", "simplejpeg")}


def remember(work: Path, plan: Plan, out: Path) -> None:
    """Write the plan into a new work folder; raise UserError where it holds another one."""
    now = {**plan, **{f"{package} version": number for package, number in encoder_versions().items()}}
    path = work / PLAN
    try:
        begun: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        write_atomic(path, json.dumps(now, indent=1).encode())
        return
    keyed = {"classes", "sources", "secret"}
    differing = [name for name in {**now, **begun} if begun.get(name) != now.get(name)]
    if differing:
        told = [f"other {n}" if n in keyed else f"{n} {begun.get(n)} then and {now.get(n)} now" for n in differing]
        raise UserError(
            f"{out}: an unfinished corpus with other settings lies there ({', '.join(told)}); "
            "use the settings it was begun with, give another OUT, or delete it"
        )


def finished(out: Path, config: PackConfig, plan: Plan) -> Manifest:
    """The manifest of a corpus that this plan gave; raise UserError where another one did."""
    manifest = Manifest.load(out)
    if manifest.plan != keyed_digest(config.secret, plan):
        raise UserError(
            f"{out}: a finished corpus of other sources or settings lies there; give another OUT, or delete it"
        )
    return manifest


def check_place(out: Path) -> None:
    """Raise UserError where `out` holds anything but a corpus, finished or not."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, a corpus is a folder; give another OUT")
    known = (out / MANIFEST).exists() or (out / WORK).exists()
    if out.is_dir() and not known and any(out.iterdir()):
        raise UserError(f"{out}: holds other files; give a new or an empty folder")


def refused_list(out: Path) -> Path:
    """Where the sources that were refused are listed, with the reasons: beside the corpus `out`, as it names them."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}-{REFUSED}")


@contextmanager
def locked(out: Path) -> Generator[Path]:
    """The work folder, for this process alone; it is gone at the end if `clear` emptied it.

    Raises UserError where another packer is at work in `out`.
    """
    work = out / WORK
    work.mkdir(mode=0o700, exist_ok=True)
    try:
        with (work / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The packer that held it may have finished, and removed the folder, since the file was opened.
                current = os.path.samestat(os.fstat(file.fileno()), (work / LOCK).stat())
            except (BlockingIOError, FileNotFoundError):
                current = False
            if not current:
                raise UserError(f"{out}: another packer is at work there; wait for it, or give another OUT")
            yield work
    finally:
        # No sooner: on NFS a file that is unlinked while it is open stays in its folder, under another name.
        (work / SPENT).unlink(missing_ok=True)
        with suppress(OSError):  # it holds what is needed to go on, or the lock of another packer
            work.rmdir()


def clear(work: Path) -> None:
    """Empty the work folder; its lock, under another name that nobody waits for, is left to `locked`."""
    for path in work.iterdir():
        if path.name != LOCK:
            path.unlink()
    (work / LOCK).replace(work / SPENT)

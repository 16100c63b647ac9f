"""Canaries: clips that are known to show people, put among the clips of an audit to measure what it misses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from understudy.privacy.audit_clips import KNOWN_BESIDE, VIDEO, Clip, packed_clips
from understudy.shards.beside import visible_files
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.manifest import MANIFEST


def canary_clips(folder: Path, *, halves: bool = False) -> list[Clip]:
    """The clips below `folder`, in groups: each folder in it is one, what lies in `folder` itself is one more. A group
    is of videos, or a corpus of ours.

    With `halves`, every group comes a second time with its pictures at half size, as small people are missed first.
    The bound is made with the group that is seen worst. Every frame should show somebody: one that does not counts as
    a miss. Raises UserError where there are no clips, none in a group, or files that would be passed over.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of canaries; put videos of people in it, in a folder for each group")
    clips = _group(folder, "canaries", deep=False)
    for inner in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        found = _group(inner, inner.name, deep=True)
        if not found:
            raise UserError(f"{inner}: neither videos nor a corpus in it; a group without canaries is none")
        clips += found
    if not clips:
        raise UserError(f"{folder}: neither videos nor a corpus in it to use as canaries")
    if halves:
        clips += [replace(c, key=f"{c.key} at half size", group=f"{c.group}, half size", half=True) for c in clips]
    return clips


def _group(folder: Path, group: str, deep: bool) -> list[Clip]:
    if (folder / MANIFEST).exists():
        return list(packed_clips(Corpus.open(folder), str(folder), "canary/", group))
    paths = visible_files(folder) if deep else sorted(path for path in folder.glob("[!.]*") if path.is_file())
    paths = [path for path in paths if path.name not in KNOWN_BESIDE]
    for path in paths:
        if path.suffix[1:].lower() not in VIDEO:
            raise UserError(f"{path}: by its name no video, so no canary; rename it or move it away")
    return [Clip(f"canary/{group}/{path.relative_to(folder)}", str(path), group=group) for path in paths]

"""What lies in a folder, behind links too, and what of it does not belong to the corpus there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from understudy.shards.audited import AUDIT
from understudy.shards.errors import UserError
from understudy.shards.manifest import MANIFEST, REFUSED, SAMPLES, Manifest

# What `understudy card` writes, and the record that a removal leaves beside its videos.
PAPERS = ("README.md", "datasheet.md", "croissant.json", "clips.csv")
RECORD = "removal.json"  # how people were removed


def visible_files(root: Path) -> list[Path]:
    """All files below `root`, sorted, but for hidden ones and those in hidden folders, such as the masks of a removal.

    Links are followed, as a packer does, but for those to a folder above. Raises UserError where a folder can't be
    listed.
    """
    return sorted(map(Path, _files_below(str(root), ())))


def _files_below(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    above = (*above, os.path.realpath(folder))
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: can't list it ({error.strerror})") from None
    for entry in entries:
        if entry.is_file():
            yield entry.path
        elif entry.is_dir() and os.path.realpath(entry.path) not in above:
            yield from _files_below(entry.path, above)


def strangers(root: Path, manifest: Manifest) -> list[Path]:
    """The visible files in a corpus's folder that its manifest does not name and that are none of its papers: nobody
    has checked or looked at them. An empty list of refusals, as packers of old left it, is none.
    """
    named = {MANIFEST, SAMPLES, AUDIT, RECORD, *PAPERS}
    named.update(name for shard in manifest.shards for name in (shard.url, shard.index))
    return [
        path
        for path in visible_files(root)
        if str(path.relative_to(root)) not in named and (not path.name.endswith(REFUSED) or path.stat().st_size)
    ]

"""torchcodec and SPDL bring no FFmpeg: this lets them find the one inside PyAV, so that all use the same."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path


def ffmpeg_environment(folder: Path) -> dict[str, str]:
    """What to set for a process that looks for FFmpeg's libraries; `folder` gets links to them under their plain names.

    Empty where PyAV was built against the system's FFmpeg, which the others then find too.
    """
    package = find_spec("av")
    bundled = Path(str(package and package.origin)).parent.with_name("av.libs")
    if not bundled.is_dir():
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    for library in bundled.iterdir():
        plain = re.sub(r"^(lib(?:av|sw)[a-z]+)-[0-9a-f]+(\.so\.\d+).*", r"\1\2", library.name)
        for name in {library.name, plain}:  # the libraries know each other by their long names
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(library)
    return {"LD_LIBRARY_PATH": str(folder)}

"""Where network weights lie: in a file that the user names, an installed package, or a wheel that was only downloaded.

Several models are published inside Python wheels whose own requirements don't fit beside ours. A wheel is a zip: the
model is read out of it, and nothing of it is installed or run.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from understudy.shards.errors import UserError


@dataclass(frozen=True)
class Packaged:
    """A model file `path` inside the wheel of `package` (import name), got by `pip download` as `requirement`."""

    package: str
    requirement: str
    path: str
    licence: str

    @property
    def name(self) -> str:
        """How a removal record or an audit names it."""
        return f"{self.package}/{Path(self.path).name}"


def weights_folder() -> Path:
    """Where downloaded wheels are looked for: $UNDERSTUDY_WEIGHTS, by default ~/.cache/understudy/weights."""
    configured = os.environ.get("UNDERSTUDY_WEIGHTS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(configured).expanduser() if configured else cache / "understudy" / "weights"


def read_packaged(model: Packaged, given: Path | None = None) -> bytes:
    """The bytes of `model`: from `given` (the file itself, or a wheel), else the installed package, else a wheel in
    `weights_folder()`. Raises UserError with the command that gets it.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"{given}: no such file; name the weights, or leave them out and {_how(model)}")
        return _from_wheel(given, model) if given.suffix == ".whl" else given.read_bytes()
    spec = importlib.util.find_spec(model.package)  # does not import a top-level package
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place).parent / model.path
        if path.is_file():
            return path.read_bytes()
    # The newest by name; a requirement pins the version where it matters.
    prefix = model.requirement.replace("-", "_").replace("==", "-")
    for wheel in sorted(weights_folder().glob(f"{prefix}-*.whl"), reverse=True):
        return _from_wheel(wheel, model)
    raise UserError(f"the weights {model.name} are not here; {_how(model)}")


def _from_wheel(wheel: Path, model: Packaged) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(model.path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: no {model.path} in it ({error}); {_how(model)}") from None


def _how(model: Packaged) -> str:
    return (
        f"run: pip download --no-deps --only-binary :all: --python-version 3.11 "
        f"--dest {weights_folder()} {model.requirement}"
    )

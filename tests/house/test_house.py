"""The house rules that a machine can check: packages, names, imports, the wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS: dict[str, set[str]] = {
    "shards": set(),
    "loader": {"shards"},
    "models": set(),
    "privacy": {"shards"},
    "recipes": {"shards", "loader", "models"},
}
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_packaged() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == {name.removeprefix("understudy.") for name in CONFIG["tool"]["setuptools"]["packages"]}
    assert CONFIG["tool"]["setuptools"]["package-dir"] == {f"understudy.{name}": name for name in folders}
    for name in folders:
        assert (ROOT / "typings" / "understudy" / name).resolve() == ROOT / name


def test_no_recipe_shadows_a_module() -> None:
    # Under `accelerate launch recipes/x.py` the folder recipes/ comes first on sys.path.
    installed = {name.split(".")[0] for name in CONFIG["project"]["dependencies"]}
    third_party = {"accelerate", "av", "numpy", "torch", "timm", "tyro", "tqdm", "safetensors", "webdataset", "nvidia"}
    for path in (ROOT / "recipes").glob("*.py"):
        assert path.stem not in sys.stdlib_module_names | installed | third_party, path


def imported_parts(path: Path) -> set[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("understudy.")} | {
        f"bare {name}" for name in names if name.split(".")[0] in {*PARTS, "cli"}
    }


@pytest.mark.parametrize("part", PARTS)
def test_dependencies_point_one_way(part: str) -> None:
    for path in (ROOT / part).glob("*.py"):
        assert imported_parts(path) <= PARTS[part] | {part}, path


def test_nobody_is_told_to_install_the_package_of_that_name_from_the_index() -> None:
    """On PyPI `understudy` is somebody else's: extras are installed from the checkout, `pip install -e ".[people]"`."""
    parts = [*PARTS, "cli", "benchmarks", "docs", "tests"]
    files = [path for part in parts for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".md", ".txt")]
    telling = re.compile(r"understudy\[\w+\]|pip3? install [^`\n]*\bunderstudy\b")
    assert len(files) > 100
    assert [path for path in files if telling.search(path.read_text())] == []


def test_the_wheel_holds_what_the_tree_holds(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    # From a copy: setuptools leaves build/ and *.egg-info in the tree that it builds.
    copy = tmp_path / "tree"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    files = [name for name in files if (ROOT / name).is_file() and not name.startswith("typings/")]
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(build, cwd=copy, check=True)
    held = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    expected = {
        f"understudy/{name}"
        for name in files
        if name.split("/")[0] in {*PARTS, "cli"} and name.endswith((".py", "py.typed"))
    }
    assert expected <= held
    assert {name for name in held if name.startswith("understudy/")} <= expected | {
        name for name in held if name.endswith(".so")
    }

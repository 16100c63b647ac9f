"""The numbers of `metrics.jsonl` in a dashboard too, through Accelerate's trackers, each of them once."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic


def check_tracker(track: str) -> None:
    """Raise UserError where a tracker is not installed: Accelerate would go on without it, and not say so."""
    if track != "none" and find_spec(track) is None:
        raise UserError(f"--track {track}: it is not installed; run: pip install {track}")


def _tracked(out: Path, tracker: str) -> Path:
    """The file that says how far a tracker was told."""
    return out / f"tracked-{tracker}.json"


def start_tracker(accelerator: Accelerator, track: str, out: Path, settings: Mapping[str, Any]) -> None:
    """Begin with a tracker, or go on with what it has of this run; its files go below `out`. Call on all ranks."""
    if track == "none":
        return
    file, known = _tracked(out, track), False
    if accelerator.is_main_process:
        known = file.exists()
        if not known:
            write_atomic(file, json.dumps({"run": secrets.token_hex(4), "steps": {}}).encode())
    accelerator.wait_for_everyone()
    run = json.loads(file.read_text())["run"]
    os.environ.setdefault("TRACKIO_DIR", str((out / "trackio").resolve()))
    own = {
        "wandb": {"id": run, "resume": "allow", "dir": str(out)},
        "trackio": {"name": run, "resume": "allow"},
    }
    # TensorBoard takes the project's name for a folder of OUT, and would list the settings anew at every start.
    project = "tensorboard" if track == "tensorboard" else "understudy"
    accelerator.init_trackers(project, None if known else flat(settings), own)


def pass_on(accelerator: Accelerator, out: Path, row: Mapping[str, Any]) -> None:
    """Give the tracker a row of `metrics.jsonl`, as `STAGE/NAME`, unless it had one of that step before a kill.

    A dashboard has one axis: the steps of a stage come after those of the stages before. Call on the main process.
    """
    if not accelerator.trackers:
        return
    file = _tracked(out, accelerator.trackers[0].name)
    state = json.loads(file.read_text())
    stage, step = row["stage"], row["step"]
    if step <= state["steps"].get(stage, 0):
        return
    state["steps"][stage] = step
    write_atomic(file, json.dumps(state).encode())
    numbers = {key: value for key, value in flat(row).items() if key not in ("stage", "step")}
    before = sum(steps for name, steps in state["steps"].items() if name != stage)
    accelerator.log({f"{stage}/{key}": value for key, value in numbers.items()}, step=before + step)


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Values by the path that leads to them, others than numbers as text."""
    values: dict[str, bool | int | float | str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}/")
        else:
            values[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return values

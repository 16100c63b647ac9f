"""Checkpoints as safetensors and JSON, whole or not at all. What a state means is the caller's business."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from understudy.shards.errors import UserError
from understudy.shards.files import fsync_folder, write_atomic

STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a stage needs to go on: weights, optimizer state by parameter index, JSON values, and the moving average of
    the weights, empty where none is kept.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    average: dict[str, Tensor]


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Per-parameter state as tensors named `INDEX.NAME`. Hyper-parameters are not state here: the step gives them."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `flatten_optimizer`, keeping the groups that `optimizer` has."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, header: dict[str, str], keep: int = 2) -> None:
    """Write `folder/step-NNNNNNNN` under a temporary name, fsync, rename; then delete all but the last `keep`.

    `header` goes into the weights' file, and says what model they are of. Raises OSError where the disk is full; what
    was written until then is deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}.tmp"
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    temporary.mkdir()
    try:
        with os_errors():
            save_file(checkpoint.model, temporary / "model.safetensors", header)
            save_file(checkpoint.optimizer, temporary / "optimizer.safetensors")
            save_file(checkpoint.average, temporary / "average.safetensors")
        (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=1) + "\n")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    fsync_folder(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


@contextmanager
def os_errors() -> Iterator[None]:
    """OSError in place of what safetensors makes of one when it writes, as for a full disk."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder`, or None where there is none. Raises UserError where it can't be read."""
    found = sorted(folder.glob("step-*"))
    if not found:
        return None
    try:
        return Checkpoint(
            model=load_file(found[-1] / "model.safetensors"),
            optimizer=load_file(found[-1] / "optimizer.safetensors"),
            state=json.loads((found[-1] / STATE).read_text()),
            average=load_file(found[-1] / "average.safetensors"),
        )
    except Exception as error:  # safetensors raises its own type for damaged files
        raise UserError(
            f"{found[-1]}: checkpoint can't be read ({error}); delete it to go on from an older one"
        ) from None


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a stage that has finished."""
    for old in [*folder.glob("step-*"), *folder.glob(".step-*.tmp")]:
        shutil.rmtree(old)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Write one safetensors file, whole or not at all."""
    write_atomic(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))

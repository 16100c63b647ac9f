"""What a table of transfer is made of: encoders from checkpoints, tasks from pairs of corpora, and the machine."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from understudy.loader import EvalViews
from understudy.models.loading import load_encoder
from understudy.models.vit import VideoViT, ViTConfig, init_xavier
from understudy.recipes.features import weights_digest
from understudy.recipes.provenance import Provenance, provenance_of
from understudy.recipes.train import step_seed
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.machine import usable_cores

SCRATCH = "scratch"


@dataclass(frozen=True)
class Model:
    """An encoder under the name that its rows have, and what they say of where it comes from: `about` has its digest
    and the fields of a Provenance.
    """

    name: str
    encoder: VideoViT
    about: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A downstream corpus in its two parts."""

    name: str
    train: Corpus
    val: Corpus


def open_model(argument: str, vit: ViTConfig) -> Model:
    """The encoder that `[NAME=]PATH` or `scratch` stands for. Raises UserError where it can't be read as one."""
    name, path = _named(argument)
    if path == SCRATCH:
        torch.manual_seed(step_seed(0, "init"))
        encoder = VideoViT(vit)
        init_xavier(encoder)
        return scratch_model(encoder, name or SCRATCH)
    try:
        encoder, _ = load_encoder(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    about = {"digest": weights_digest(encoder), **asdict(provenance_of(Path(path)))}
    return Model(name or "/".join(Path(path).parts[-2:]), encoder, about)


def _named(argument: str) -> tuple[str, str]:
    """NAME and PATH of `[NAME=]PATH`, NAME empty where there is none."""
    name, equals, path = argument.partition("=")
    return (name, path) if equals and "/" not in name else ("", argument)  # a path may hold an =


def scratch_model(encoder: VideoViT, name: str = SCRATCH) -> Model:
    """An encoder that nothing was done to."""
    return Model(name, encoder.eval(), {"digest": weights_digest(encoder), **asdict(Provenance())})


def open_task(argument: str) -> Task:
    """The corpora PREFIX-train and PREFIX-val of `[NAME=]PREFIX`. Raises UserError where their classes differ."""
    name, prefix = _named(argument)
    train, val = Corpus.open(f"{prefix}-train"), Corpus.open(f"{prefix}-val")
    if train.manifest.classes != val.manifest.classes:
        differing = [i for i, (a, b) in enumerate(zip(train.manifest.classes, val.manifest.classes)) if a != b]
        first = f", first at label {differing[0]}" if differing else ""
        raise UserError(
            f"{prefix}-train and -val: their class lists differ ({len(train.manifest.classes)} and "
            f"{len(val.manifest.classes)} classes{first}); pack both with one list"
        )
    return Task(name or Path(prefix).name, train, val)


def describe_views(views: EvalViews) -> str:
    """Views as rows have them: 2x3 (even)."""
    return f"{views.clips}x{views.crops} ({views.starts})"


def machine(accelerator: Accelerator) -> dict[str, Any]:
    """What the speeds were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "gpu": gpu,
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "ranks": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }

"""What a run needs before it trains: the accelerator, its corpora, its output folder, its share of the cores."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from understudy.recipes.configs import MixedConfig
from understudy.recipes.track import check_tracker
from understudy.shards.audited import require_audit
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.manifest import Corpus


class Job(Protocol):
    """What the configs of all recipes say of the machine."""

    @property
    def precision(self) -> str:
        """bf16, no or auto."""
        ...

    @property
    def threads(self) -> int:
        """Decoding threads of each process; 0 means its share of the cores."""
        ...


def make_accelerator(config: Job, track: str = "none", out: Path | None = None) -> Accelerator:
    """Accelerate in the config's precision; auto is bf16 where the device computes in it, float32 elsewhere. A tracker
    that writes files writes them below `out`. Raises UserError where it is not installed.
    """
    check_tracker(track)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if _bf16_is_native() else "no"
    # Buffers here are fixed from the start: to send them anew at every step would cost an average of two encoders of
    # `base` 690 MB a step.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    # Newer PyTorch has another word for that, which Accelerate can't pass on.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # Without cpu=True, ranks on a machine with no GPU would each run alone, without a word.
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision,
        kwargs_handlers=[parallel],
        log_with=None if track == "none" else track,
        project_dir=out,
    )


def _bf16_is_native() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)  # older GPUs emulate it, slower than float32
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def named_corpora(config: MixedConfig) -> dict[str, tuple[str, ...]]:
    """Folders or addresses of the corpora by use: those that the config names, all or none; else the demo's.

    Raises UserError where some are missing, and where none is named in a config that is not the demo's.
    """
    flags = {
        "--mae-corpora": config.mae_corpora,
        "--align-corpora": config.align_corpora,
        "--probe-train": config.probe_train,
        "--probe-val": config.probe_val,
    }
    missing = [flag for flag, value in flags.items() if not value]
    if not missing:
        assert config.probe_train is not None and config.probe_val is not None
        probe = (config.probe_train, config.probe_val)
        return {"mae": config.mae_corpora, "align": config.align_corpora, "probe": probe}
    if len(missing) < len(flags):
        others = "; or none of them, to train on the demo's" if config.demo_clips else ""
        raise UserError(f"name the other corpora too, with {', '.join(missing)}{others}")
    if not config.demo_clips:
        raise UserError(f"name the corpora to train on and to probe on, with {', '.join(missing)}")
    nohuman, synthetic, train, val = (
        str(config.out / "corpora" / name)
        for name in ("demo-nohuman", "demo-synthetic", "demo-actions-train", "demo-actions-val")
    )
    return {"mae": (nohuman,), "align": (nohuman, synthetic), "probe": (train, val)}


def open_corpora(config: MixedConfig) -> dict[str, list[Corpus]]:
    """Open the corpora by use, refusing kinds that the config does not allow in pre-training."""
    named = named_corpora(config)
    corpora = {use: [Corpus.open(path) for path in paths] for use, paths in named.items()}
    for corpus in corpora["mae"] + corpora["align"]:
        if corpus.manifest.kind not in config.allow_kinds:
            raise UserError(
                f"{corpus.root}: of kind {corpus.manifest.kind}, but only {', '.join(config.allow_kinds)} may be "
                f"trained on; add --allow-kinds {' '.join((*config.allow_kinds, corpus.manifest.kind))} to go on"
            )
        if config.require_audit is not None:
            require_audit(corpus, config.require_audit)
    if corpora["probe"][0].manifest.classes != corpora["probe"][1].manifest.classes:
        raise UserError(
            f"{named['probe'][0]} and {named['probe'][1]}: their class lists differ; pack both with one list"
        )
    return corpora


def check_output(config: MixedConfig) -> None:
    """Raise UserError where the output folder holds a run with other settings. Writes nothing."""
    path = config.out / "config.json"
    if path.exists() and path.read_text() != _settings(config):
        raise UserError(f"{config.out}: holds a run with other settings ({path} says which); choose another --out")


def claim_output(config: MixedConfig) -> None:
    """Write the settings into the output folder, so that no run with others goes on there."""
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomic(config.out / "config.json", _settings(config).encode())


def _settings(config: MixedConfig) -> str:
    # These change nothing that is trained.
    free = {"ablate", "allow_changed_corpora", "out", "threads", "log_every", "save_every", "require_audit", "track"}
    return json.dumps({k: v for k, v in asdict(config).items() if k not in free}, indent=1, default=str) + "\n"


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def threads_of(config: Job, accelerator: Accelerator) -> int:
    """Decoding threads of this process."""
    return config.threads or max(1, cores() // accelerator.num_processes)


@contextmanager
def told_in_one_line(recipe: str) -> Iterator[None]:
    """End the process with one line where the user can do something: a wrong setting, or a full disk."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{recipe}: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        again = "make room and run the same command again, it goes on where it was"
        sys.exit(f"{recipe}: no space left on the disk; {again}")

"""What a run needs before it trains: the accelerator, its output folder, its corpora, its share of the cores."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from understudy.recipes.configs import MixedConfig
from understudy.shards.audited import require_audit
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.manifest import Corpus


def make_accelerator(config: MixedConfig) -> Accelerator:
    """Accelerate with the precision that the device computes well in."""
    precision = config.precision
    if precision == "auto":
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        precision = "bf16" if torch.cuda.is_available() or "amx_bf16" in flags or "avx512_bf16" in flags else "no"
    # A batch comes from one corpus, so the other corpora's heads get no gradient in that step, on any rank.
    unused_heads = DistributedDataParallelKwargs(find_unused_parameters=not config.shared_head)
    # Without cpu=True, ranks on a machine with no GPU would each run alone, without a word.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, kwargs_handlers=[unused_heads])


def claim_output(config: MixedConfig) -> None:
    """Write the config into the output folder, or check that the one there is the same."""
    # These change nothing that is trained.
    free = ("ablate", "allow_changed_corpora", "out", "threads", "log_every", "save_every", "require_audit")
    text = json.dumps({k: v for k, v in asdict(config).items() if k not in free}, indent=1, default=str) + "\n"
    path = config.out / "config.json"
    if not path.exists():
        config.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    elif path.read_text() != text:
        raise UserError(f"{config.out}: holds a run with other settings ({path} says which); choose another --out")


def open_corpora(config: MixedConfig) -> dict[str, list[Corpus]]:
    """Open the corpora by use, refusing kinds that the config does not allow in pre-training."""
    demo_corpora = config.out / "corpora"
    named = {
        "mae": config.mae_corpora or (demo_corpora / "demo-nohuman",),
        "align": config.align_corpora or (demo_corpora / "demo-nohuman", demo_corpora / "demo-synthetic"),
        "probe": (
            config.probe_train or demo_corpora / "demo-actions-train",
            config.probe_val or demo_corpora / "demo-actions-val",
        ),
    }
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


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def threads_of(config: MixedConfig, accelerator: Accelerator) -> int:
    """Decoding threads of this process."""
    return config.threads or max(1, cores() // accelerator.num_processes)

"""What a run needs before it trains: the accelerator, its corpora, its output folder, its share of the cores."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from understudy.loader.batch import default_threads
from understudy.recipes.configs import MixedConfig
from understudy.recipes.entries import SCRATCH, Model, open_model
from understudy.recipes.provenance import START, Provenance
from understudy.recipes.track import check_tracker
from understudy.shards.audited import require_audit
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic

CONFIG = "config.json"
DIGESTS = "digests"  # in it: of the corpora that were trained on
# Kept on record, but no setting of what is trained: corpora may move, and a probe may be added or changed.
NAMED = {"mae_corpora", "align_corpora", "probe_train", "probe_val", "probe", "probe_views", DIGESTS}


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
    """Folders or addresses of the corpora by use, none for a stage that is not run and for a probe that is left out:
    those that the config names; where it names none, the demo's.

    Raises UserError where some are missing, named for nothing, or none is named in a config that is not the demo's.
    """
    if config.start is not None and config.stages == "stage1":
        raise UserError("--start leaves stage 1 out, and --stages stage1 all but it; give one of the two")
    named = {"mae": config.mae_corpora, "align": config.align_corpora}
    probe = {"--probe-train": config.probe_train, "--probe-val": config.probe_val}
    if config.start is not None and config.mae_corpora:
        raise UserError("--mae-corpora: stage 1, which they are for, is not run with --start; leave them out")
    left_out = "mae" if config.start is not None else "align" if config.stages == "stage1" else ""
    missing = [f"--{use}-corpora" for use in named if use != left_out and not named[use]]
    unprobed = [flag for flag, value in probe.items() if not value]
    if not any(named.values()) and len(unprobed) == 2:
        if not config.demo_clips:
            wanted = ", ".join(missing)
            raise UserError(f"name the corpora to train on, with {wanted}; for a probe, {', '.join(unprobed)}")
        nohuman, synthetic, train, val = (
            str(config.out / "corpora" / name)
            for name in ("demo-nohuman", "demo-synthetic", "demo-actions-train", "demo-actions-val")
        )
        demo = {"mae": (nohuman,), "align": (nohuman, synthetic), "probe": (train, val)}
        return {use: () if use == left_out else paths for use, paths in demo.items()}
    if missing := missing + (unprobed if len(unprobed) == 1 else []):
        others = "; or none of them, to train on the demo's" if config.demo_clips else ""
        raise UserError(f"name the other corpora too, with {', '.join(missing)}{others}")
    return {**named, "probe": () if unprobed else (str(config.probe_train), str(config.probe_val))}


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
    if corpora["probe"] and corpora["probe"][0].manifest.classes != corpora["probe"][1].manifest.classes:
        raise UserError(
            f"{named['probe'][0]} and {named['probe'][1]}: their class lists differ; pack both with one list"
        )
    return corpora


def open_start(config: MixedConfig) -> Model | None:
    """The encoder that stage 2 is to start from, where it is neither stage 1's nor random. Raises UserError where it
    was trained on kinds of corpora that the config does not allow.
    """
    if config.start is None or config.start == SCRATCH:
        return None
    model = open_model(config.start, config.vit)
    for corpus in Provenance(model.about["trained_on"]).corpora():
        if corpus["kind"] not in config.allow_kinds:
            raise UserError(
                f"--start {config.start}: was trained on a corpus of kind {corpus['kind']}; add --allow-kinds "
                f"{' '.join((*config.allow_kinds, corpus['kind']))} to go on"
            )
    return model


def check_output(config: MixedConfig, start: Model | None) -> None:
    """Raise UserError where the output folder holds a run with other settings or of another start. Writes nothing."""
    path = config.out / CONFIG
    if path.exists():
        before, now = _leaves(json.loads(path.read_text())), _leaves(_settings(config))
        keys = [key for key in now | before if key.partition(".")[0] not in NAMED]
        differ = [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
        if differ:
            raise UserError(
                f"{config.out}: holds a run with other settings: {'; '.join(differ[:3])}; "
                "give the same, or choose another --out"
            )
    began = config.out / START
    if start and began.exists() and json.loads(began.read_text())["digest"] != start.about["digest"]:
        raise UserError(
            f"{config.out}: holds a run that began with other weights of {config.start}; choose another --out"
        )


def claim_output(config: MixedConfig, corpora: dict[str, list[Corpus]], start: Model | None) -> None:
    """Write the settings, the corpora's digests and the start's ledgers into the output folder, so that no run with
    others goes on there. Raises UserError where one with other corpora lies there; it is what is in them that counts,
    not where they are.
    """
    path = config.out / CONFIG
    digests = {use: [c.manifest.digest for c in corpora[use]] for use in ("mae", "align") if corpora[use]}
    known = json.loads(path.read_text())[DIGESTS] if path.exists() else {}
    for use, now in digests.items():
        if known.get(use, now) != now and not config.allow_changed_corpora:
            raise UserError(
                f"{config.out}: holds a run with other corpora, by their digests; name the same with --{use}-corpora, "
                "pass --allow-changed-corpora where they were packed anew, or choose another --out"
            )
    config.out.mkdir(parents=True, exist_ok=True)
    written = _settings(config) | {DIGESTS: known | digests}
    write_atomic(path, (json.dumps(written, indent=1) + "\n").encode())
    if start:
        about = {"path": config.start, **start.about}
        write_atomic(config.out / START, (json.dumps(about, indent=1) + "\n").encode())


def _settings(config: MixedConfig) -> dict[str, Any]:
    # These change nothing that is trained.
    free = {"ablate", "allow_changed_corpora", "out", "threads", "log_every", "save_every", "require_audit", "stages"}
    free |= {"track", "checkpoint_activations"}
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in free}, default=str))


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value that is no table, by the name that its flag has: `stage1.steps`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def threads_of(config: Job) -> int:
    """Decoding threads of this process: by default its share of this machine's cores, whatever other machines have."""
    return config.threads or default_threads()


@contextmanager
def told_in_one_line(recipe: str) -> Iterator[None]:
    """End the process with one line where the user can do something: a wrong setting or path, or a full disk."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{recipe}: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if error.filename is None:
                raise
            sys.exit(f"{recipe}: {error.filename}: {error.strerror}")
        sys.exit(f"{recipe}: no space left on the disk; make room and run the same command again")
    except KeyboardInterrupt:
        sys.exit(130)

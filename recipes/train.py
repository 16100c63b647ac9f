"""One training stage with Accelerate: the loop, its log lines, and going on after a kill. Both stages run this."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from understudy.loader import Batch, ClipLoader
from understudy.models.align import Aligner
from understudy.models.mae import MaskedAutoencoder
from understudy.models.optim import learning_rate, parameter_groups
from understudy.recipes.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    latest_checkpoint,
    remove_checkpoints,
    restore_optimizer,
    save_checkpoint,
    save_tensors,
)
from understudy.recipes.ledger import Ledger, add_skipped, global_ids
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic

ENCODER = "encoder.safetensors"
LEDGER = "ledger.json"
NO_CLIPS = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class Stage:
    """One stage's schedule. `batch_size` is global and counts views; `views` are crops of one decode."""

    steps: int
    batch_size: int
    views: int
    rate: float
    warmup: int
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False


@dataclass(frozen=True)
class StageReport:
    """What a finished stage says of itself; `data_share` is time spent waiting for clips over step time."""

    steps: int
    samples: int
    seconds: float
    data_seconds: float
    skipped: int
    final_loss: float

    @property
    def samples_per_second(self) -> float:
        """Clips trained on per second, over all ranks."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def data_share(self) -> float:
        """Share of the wall clock spent waiting for the loader."""
        return self.data_seconds / self.seconds if self.seconds else 0.0


def step_seed(*key: int | str) -> int:
    """A 63-bit seed from a key, so that randomness is a function of the step and nothing has to be saved."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


class MetricsLog:
    """`metrics.jsonl`: one object a log line. Rows that a resumed stage will write again are dropped first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Forget rows of `stage` after `step`, and a last line that a kill left half-written."""
        kept: list[str] = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["stage"] != stage or row["step"] <= step:
                kept.append(line + "\n")
        write_atomic(self.path, "".join(kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def train_stage(
    accelerator: Accelerator,
    name: str,
    module: MaskedAutoencoder | Aligner,
    loader: ClipLoader,
    stage: Stage,
    loss_of: Callable[[nn.Module, Batch, torch.Generator], Tensor],
    out: Path,
    *,
    depth: int,
    seed: int,
    log_every: int,
    save_every: int,
    compiled: bool,
) -> StageReport:
    """Train `module` for `stage.steps` steps on `loader`. Encoder weights end in `out/NAME/encoder.safetensors`, what
    they were trained on in `out/NAME/ledger.json`.

    `loss_of(model, batch, generator)` gives the scalar loss; `generator` is seeded by the step alone. Killed at any
    moment and called again with the same arguments, it goes on from the last checkpoint, on CPU to the same bits.
    A stage that has finished is not run again. Raises UserError when the loss is not finite.
    """
    folder, log = out / name, MetricsLog(out / "metrics.jsonl")
    done = folder / "report.json"
    if done.exists():
        return StageReport(**json.loads(done.read_text()))

    if save_every % log_every:
        raise UserError(f"--save-every {save_every} must be a multiple of --log-every {log_every}")
    groups = parameter_groups(module, weight_decay=stage.weight_decay, layer_decay=stage.layer_decay, depth=depth)
    optimizer = torch.optim.AdamW(groups, lr=stage.rate, betas=stage.betas, fused=True)
    report = StageReport(steps=0, samples=0, seconds=0.0, data_seconds=0.0, skipped=0, final_loss=math.nan)
    ledger = Ledger()
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None:
        module.load_state_dict(checkpoint.model)
        loader.load_state_dict(checkpoint.state["loader"])
        report = StageReport(**checkpoint.state["report"])
        ledger = Ledger(**checkpoint.state["ledger"])
    skipped_before = ledger.skipped
    if compiled:
        module.compile()
    model, prepared = accelerator.prepare(module, optimizer)
    if checkpoint is not None:
        restore_optimizer(optimizer, checkpoint.optimizer)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        log.rewind(name, report.steps)

    module.train()
    generator = torch.Generator(accelerator.device)
    batches = iter(loader)
    bar = tqdm(
        total=stage.steps,
        initial=report.steps,
        desc=name,
        unit="step",
        disable=None if accelerator.is_main_process else True,
    )
    for first in range(report.steps, stage.steps, log_every):
        steps = min(log_every, stage.steps - first)
        losses: list[Tensor] = []
        taken: list[Batch] = []
        interval, data_seconds = time.perf_counter(), 0.0
        for step in range(first, first + steps):
            waiting = time.perf_counter()
            batch = next(batches)
            data_seconds += time.perf_counter() - waiting

            rate = learning_rate(step, stage.steps, stage.rate, stage.warmup)
            for group in prepared.param_groups:
                group["lr"] = rate * group["lr_scale"]
            torch.manual_seed(step_seed(seed, name, step, accelerator.process_index))
            generator.manual_seed(step_seed(seed, name, step))
            with accelerator.autocast():
                loss = loss_of(model, batch, generator)
            accelerator.backward(loss)
            prepared.step()
            prepared.zero_grad(set_to_none=True)

            losses.append(loss.detach())
            taken.append(replace(batch, clips=NO_CLIPS))
            bar.update()

        # Nothing above waits for the device; the numbers of the interval are fetched here, at once.
        loss_of_step = cast(Tensor, accelerator.reduce(torch.stack(losses).double(), "mean"))
        skipped = cast(Tensor, accelerator.reduce(torch.stack([(~batch.ok).sum() for batch in taken]).sum(), "sum"))
        mean_loss = loss_of_step.mean().item()
        if not math.isfinite(mean_loss):
            bad = int(loss_of_step.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"{name}: the loss is not finite at step {first + bad + 1} (source {taken[bad].source}, samples "
                f"{sorted(set(taken[bad].ids.tolist()))}); lower the rate or look at those samples"
            )
        for batch, ids in zip(taken, global_ids(accelerator, taken, stage.views)):
            ledger.record(batch.source, ids)
        if skipped:
            ledger.skipped = add_skipped(skipped_before, loader)
        seconds = time.perf_counter() - interval
        report = StageReport(
            steps=first + steps,
            samples=report.samples + steps * stage.batch_size,
            seconds=report.seconds + seconds,
            data_seconds=report.data_seconds + data_seconds,
            skipped=report.skipped + int(skipped),
            final_loss=mean_loss,
        )
        if not accelerator.is_main_process:
            continue
        speed, share = steps * stage.batch_size / seconds, data_seconds / seconds
        bar.set_postfix_str(f"loss {mean_loss:.4f}, {speed:.0f} clips/s, data {share:.0%}")
        log.write(
            {
                "stage": name,
                "step": report.steps,
                "loss": mean_loss,
                "rate": learning_rate(report.steps - 1, stage.steps, stage.rate, stage.warmup),
                "samples_per_second": speed,
                "data_seconds": data_seconds,
                "data_share": share,
                "skipped": report.skipped,
            }
        )
        if report.steps % save_every == 0 and report.steps < stage.steps:
            save_checkpoint(
                folder,
                report.steps,
                Checkpoint(
                    model=module.state_dict(),
                    optimizer=flatten_optimizer(optimizer),
                    state={"report": asdict(report), "ledger": asdict(ledger), "loader": loader.state_dict()},
                ),
            )
    bar.close()
    if accelerator.is_main_process:
        save_tensors(folder / ENCODER, module.encoder.state_dict())
        write_atomic(folder / LEDGER, (json.dumps(asdict(ledger), indent=1) + "\n").encode())
        write_atomic(done, (json.dumps(asdict(report), indent=1) + "\n").encode())
        remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    return report

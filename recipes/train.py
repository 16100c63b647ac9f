"""One training stage with Accelerate: the loop, its log lines, and going on after a kill. Both stages run this."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from understudy.loader import Batch
from understudy.models.loading import header, load_strictly
from understudy.models.optim import parameter_groups, update_average
from understudy.models.vit import ViTConfig
from understudy.models.whole import MODEL
from understudy.recipes.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    latest_checkpoint,
    remove_checkpoints,
    restore_optimizer,
    save_checkpoint,
    save_tensors,
)
from understudy.recipes.ledger import Ledger, add_skipped, describe, global_ids
from understudy.recipes.metrics import MetricsLog, top1
from understudy.recipes.stage import Stage, StageReport
from understudy.recipes.track import pass_on
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic

ENCODER = "encoder.safetensors"
LEDGER = "ledger.json"
REPORT = "report.json"
AHEAD = 2  # steps that the host may be ahead of a GPU: fewer batches than those that the loader lets it have (LEAD)
NO_CLIPS = torch.empty(0, dtype=torch.uint8)


def step_seed(*key: int | str) -> int:
    """A 63-bit seed from a key, so that randomness is a function of the step and nothing has to be saved."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


class Pace:
    """Holds the host back where a GPU is `AHEAD` steps behind it. It would be held back in the loader otherwise, which
    makes no batches without end for a GPU that is behind, and the wait would pass for one for clips.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked: deque[torch.cuda.Event] = deque()

    def keep(self) -> None:
        """Called before each step; returns when at most `AHEAD` steps are still to be computed."""
        if self._device.type != "cuda":
            return
        asked = torch.cuda.Event(blocking=True)  # a wait for it leaves the core to decoding
        asked.record(torch.cuda.current_stream(self._device))
        self._asked.append(asked)
        if len(self._asked) > AHEAD:
            self._asked.popleft().synchronize()


class Batches(Protocol):
    """What a stage trains on: an endless loader that can say where it is, ClipLoader for one."""

    def __next__(self) -> Batch:
        """The next batch of this rank."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Its place, as JSON, the same on every rank."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...

    @property
    def skipped(self) -> dict[tuple[str, str], int]:
        """Unusable samples of this rank by (source, reason)."""
        ...


def train_stage(
    accelerator: Accelerator,
    name: str,
    module: nn.Module,
    loader: Batches,
    stage: Stage,
    loss_of: Callable[[nn.Module, Batch, torch.Generator], Tensor | tuple[Tensor, Tensor]],
    out: Path,
    *,
    depth: int,
    seed: int,
    log_every: int,
    save_every: int,
    compiled: bool,
    parts: int = 1,
    corpora: Sequence[Corpus] = (),
    model_header: dict[str, str] | None = None,
    on_save: Callable[[Tensor], None] = lambda clips: None,
) -> StageReport:
    """Train `module` for `stage.steps` steps on `loader`. The weights of its `encoder` end in
    `out/NAME/encoder.safetensors`, what they were trained on, `corpora` among it, in `out/NAME/ledger.json`; with
    `model_header`, which says what they are of, all weights end in `out/NAME/model.safetensors`.
    The main process calls `on_save` with its last clips at each checkpoint and at the end.

    `loss_of(model, batch, generator)` gives the scalar loss, and with it, where accuracy is to be logged, how many rows
    were right and of how many, float32 (2,); `generator` is seeded by the step and the part alone. A step's gradient is
    that of `parts` batches, each weighing as many rows as it has. Killed at any moment and called again with the same
    arguments, it goes on from the last checkpoint, on CPU to the same bits. A stage that has finished is not run again.
    Raises UserError when the loss is not finite.
    """
    folder, log = out / name, MetricsLog(out / "metrics.jsonl")
    done = folder / REPORT
    if done.exists():
        if accelerator.is_main_process:
            remove_checkpoints(folder)  # a kill may have come first
        return StageReport(**json.loads(done.read_text()))
    if stage.warmup >= stage.steps:
        accelerator.print(
            f"{name}: its rate only rises, for warm-up takes {stage.warmup} steps and it has {stage.steps}; "
            "shorten the warm-up"
        )

    if save_every % log_every:
        raise UserError(f"--save-every {save_every} must be a multiple of --log-every {log_every}")
    encoder = cast(nn.Module, module.encoder)
    about = header(cast(ViTConfig, encoder.config))
    groups = parameter_groups(module, weight_decay=stage.weight_decay, layer_decay=stage.layer_decay, depth=depth)
    optimizer = torch.optim.AdamW(groups, lr=stage.rate, betas=stage.betas, fused=True)
    report = StageReport(steps=0, samples=0, seconds=0.0, data_seconds=0.0, skipped=0, final_loss=math.nan)
    ledger = Ledger(corpora=describe(corpora))
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None:
        try:
            load_strictly(module, checkpoint.model, str(folder))
        except ValueError as error:
            raise UserError(f"{error}; another version made its checkpoints: delete them to train it again") from None
        loader.load_state_dict(checkpoint.state["loader"])
        report = StageReport(**checkpoint.state["report"])
        ledger = Ledger(**checkpoint.state["ledger"])
        ledger.go_on_with(describe(corpora))
    skipped_before = ledger.skipped
    if compiled:
        module.compile()
    model, prepared = accelerator.prepare(module, optimizer)
    average: dict[str, Tensor] = {}
    if stage.ema:
        average = {key: value.detach().clone() for key, value in module.named_parameters() if value.requires_grad}
    if checkpoint is not None:
        restore_optimizer(optimizer, checkpoint.optimizer)
        average = {key: checkpoint.average[key].to(accelerator.device) for key in average}
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        log.rewind(name, report.steps)

    module.train()
    clips = NO_CLIPS
    generator, pace = torch.Generator(accelerator.device), Pace(accelerator.device)
    bar = tqdm(
        total=stage.steps,
        initial=report.steps,
        desc=name,
        unit="step",
        disable=None if accelerator.is_main_process else True,
    )
    while report.steps < stage.steps:
        # Up to a multiple of log_every, also where a run with others was stopped: none of save_every is passed over.
        first = report.steps
        steps = min(log_every - first % log_every, stage.steps - first)
        losses: list[Tensor] = []
        answers: list[Tensor] = []
        taken: list[Batch] = []
        interval, data_seconds = time.perf_counter(), 0.0
        for step in range(first, first + steps):
            pace.keep()
            for group in prepared.param_groups:
                group["lr"] = stage.rate_at(step) * group["lr_scale"]
            for part in range(parts):
                waiting = time.perf_counter()
                batch = next(loader)
                data_seconds += time.perf_counter() - waiting
                torch.manual_seed(step_seed(seed, name, step, part, "rank", accelerator.process_index))
                generator.manual_seed(step_seed(seed, name, step, part))
                weight = len(batch.ids) * accelerator.num_processes / stage.batch_size
                # Gradients add up here until the last part, and only then over the ranks.
                with accelerator.no_sync(model) if part < parts - 1 else nullcontext():
                    with accelerator.autocast():
                        found = loss_of(model, batch, generator)
                        loss, *right = found if isinstance(found, tuple) else (found,)
                        loss = loss * weight
                    accelerator.backward(loss)
                losses.append(loss.detach())
                answers += right
                clips = batch.clips
                taken.append(replace(batch, clips=NO_CLIPS))
            prepared.step()
            prepared.zero_grad(set_to_none=True)
            if average:
                update_average(average, module, stage.ema)
            bar.update()

        # Nothing above waits for the device; the numbers of the interval are fetched here, at once.
        part_losses = cast(Tensor, accelerator.reduce(torch.stack(losses).double(), "mean"))
        answered = cast(Tensor, accelerator.reduce(torch.stack(answers), "sum")) if answers else None
        skipped = cast(Tensor, accelerator.reduce(torch.stack([(~batch.ok).sum() for batch in taken]).sum(), "sum"))
        ids = [global_ids(accelerator, taken[part::parts], stage.views) for part in range(parts)]
        mean_loss = part_losses.sum().item() / steps
        if not math.isfinite(mean_loss):
            bad = int(part_losses.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"{name}: the loss is not finite at step {first + bad // parts + 1} (source {taken[bad].source}, "
                f"samples {ids[bad % parts][bad // parts].tolist()}); lower the rate or look at those samples"
            )
        for i, batch in enumerate(taken):
            ledger.record(batch.source, ids[i % parts][i // parts])
        ledger.steps = first + steps
        if skipped:
            ledger.skipped = add_skipped(skipped_before, loader.skipped)
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
        accuracy = {} if answered is None else top1([batch.source for batch in taken], answered)
        told = f", top-1 {accuracy['top1']:.0%}" if accuracy else ""
        bar.set_postfix_str(f"loss {mean_loss:.4f}{told}, {speed:.0f} clips/s, data {share:.0%}")
        row = {
            "stage": name,
            "step": report.steps,
            "loss": mean_loss,
            **accuracy,
            "rate": stage.rate_at(report.steps - 1),
            "samples_per_second": speed,
            "data_seconds": data_seconds,
            "data_share": share,
            "skipped": report.skipped,
        }
        log.write(row)
        pass_on(accelerator, out, row)
        if report.steps % save_every == 0 or report.steps == stage.steps:
            on_save(clips)
        if report.steps % save_every == 0 and report.steps < stage.steps:
            state = {"report": asdict(report), "ledger": asdict(ledger), "loader": loader.state_dict()}
            whole = Checkpoint(module.state_dict(), flatten_optimizer(optimizer), state, average)
            save_checkpoint(folder, report.steps, whole, about)
    bar.close()
    if accelerator.is_main_process:
        weights = {**module.state_dict(), **average}
        if model_header is not None:
            save_tensors(folder / MODEL, weights, model_header)
        save_tensors(folder / ENCODER, {key: weights[f"encoder.{key}"] for key in encoder.state_dict()}, about)
        write_atomic(folder / LEDGER, (json.dumps(asdict(ledger), indent=1) + "\n").encode())
        write_atomic(done, (json.dumps(asdict(report), indent=1) + "\n").encode())
        remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # else it holds on to every model and optimizer that it prepared
    return report

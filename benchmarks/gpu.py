"""Everything that needs a GPU, in one command of under eight minutes that fetches nothing and compiles nothing.

    python benchmarks/gpu.py --out results/gpu [--quick] [--corpus A B] [--only SECTION ...]

Whether DALI's clips are the reference's; how many clips a second come out of nvJPEG, of NVDEC and of the native
decoder with a copy; what a training step takes with a batch that is there and with the loader. A part that fails is a
row that says why. Where there is no GPU, it rehearses all that a CPU can do, on the demo's small model.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import gpu_decode as decode
import gpu_material as material
import gpu_steps as steps
import torch
from gpu_steps import Preset, StageName, Trainer
from machine import versions

from understudy.loader.native import native_status
from understudy.models.mae import MAEConfig
from understudy.models.vit import BASE
from understudy.recipes.mixed import demo
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.kinds import Codec
from understudy.shards.machine import usable_cores

# Dense bf16 peaks from NVIDIA's data sheets, in FLOP/s, without sparsity, by the names of SXM parts: others of the same
# family (PCIe, NVL, GH200) have other peaks.
PEAKS = {"NVIDIA H200": 989e12, "H100 80GB HBM3": 989e12, "A100-SXM": 312e12, "NVIDIA B200": 2250e12}
PIPELINES = (1, 2, 4, 7)
VIEWS = (4, 1)
STAGES: tuple[StageName, ...] = ("stage1", "stage2")
COMPILING_S = 150.0  # of torch.compile, at most
PACKAGES = (
    "understudy",
    "torch",
    "torchvision",
    "accelerate",
    "timm",
    "numpy",
    "av",
    "simplejpeg",
    "nvidia-dali-cuda130",
)

Found = tuple[float | None, dict[str, Any]]  # the value of a row, and what else is known of it
Corpora = dict[Codec, Corpus]


@dataclass(frozen=True)
class Plan:
    """How much is measured, on what."""

    preset: Preset
    clips: int
    width: int
    height: int
    frames: int
    checked: int
    """Samples that are compared with the reference."""
    seconds: float
    """For each rate."""
    sizes: tuple[int, ...]
    """Batch sizes whose time and memory are taken."""


FULL = Plan(
    Preset(BASE, MAEConfig(), rows=128, seconds=2.0, rounds=3),
    clips=96,
    width=340,
    height=256,
    frames=60,
    checked=16,
    seconds=2.0,
    sizes=(64, 128, 256, 512, 1024),
)
QUICK = replace(
    FULL, preset=replace(FULL.preset, seconds=1.0, rounds=2), clips=48, checked=4, seconds=0.7, sizes=(128, 256)
)
_DEMO = demo()
REHEARSAL = Plan(
    Preset(_DEMO.vit, _DEMO.mae, rows=16, seconds=0.2, rounds=2),
    clips=8,
    width=128,
    height=96,
    frames=20,
    checked=4,
    seconds=0.2,
    sizes=(4, 8),
)


@dataclass
class Report:
    """Rows as they come, and the time there is."""

    deadline: float
    save: Callable[[], None]
    """Called after every row: a machine may be taken away at any moment."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def measure(self, section: str, name: str, unit: str, what: Callable[[], Found], needs: float = 0.0) -> None:
        """Add a row with what `what` finds, or with why there is nothing; `needs` seconds must be left for it."""
        row: dict[str, Any] = {"section": section, "name": name, "value": None, "unit": unit, "note": "", "details": {}}
        self.rows.append(row)
        started = time.monotonic()
        if started + needs > self.deadline:
            row["note"] = "not measured: no time left"
            self.save()
            return
        try:
            row["value"], row["details"] = what()
        except Exception as error:  # whatever it is, the other rows are wanted
            row["note"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        row["took_seconds"] = round(time.monotonic() - started, 2)
        self.save()
        print(_line(row), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sections; the exit status."""
    args = _arguments(arguments)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    plan = REHEARSAL if device.type == "cpu" else QUICK if args.quick else FULL
    started = time.time()
    corpora: Corpora = {}
    report = Report(time.monotonic() + 60 * args.minutes, lambda: _save(args, report, plan, corpora, device, started))
    args.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-gpu-")))
        try:
            if args.corpus:
                corpora |= material.open_corpora(args.corpus)
            else:
                _make(report, plan, corpora, work)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        for name, section in SECTIONS.items():
            if not args.only or name in args.only:
                section(report, plan, corpora, device, args.out)
                _free(device)
    print(_table(report.rows))
    return 0


def agreement(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """The decoders' clips against the reference's, and a bad sample beside good ones."""
    clip = steps.clip_of(plan.preset.vit)

    def agree(name: str, corpus: Corpus) -> Found:
        found = decode.agreement(name, corpus, clip, device, plan.checked)
        return found["mean_difference"], found

    def survive(name: str, corpus: Corpus) -> Found:
        found = decode.bad_sample(name, corpus, clip, device)
        return found["harmless"], found

    for codec, corpus in corpora.items():
        for name in ("dali", "native"):
            report.measure("agreement", f"{name}, {codec}: mean difference", "of 255", partial(agree, name, corpus))
            report.measure(
                "agreement", f"{name}, {codec}: a bad sample is harmless", "", partial(survive, name, corpus)
            )


def decoding(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """Clips a second on the device: by the loader, by DALI through one or more pipelines, and what bounds them."""
    clip, rows = steps.clip_of(plan.preset.vit), plan.preset.rows

    def copied() -> Found:
        return decode.copy_rate(clip, rows, device, plan.seconds) / 1e9, {}

    def loaded(corpus: Corpus, views: int, decoder: str) -> Found:
        return _rate(decode.loader_rate(corpus, clip, views, rows // views, decoder, device, plan.seconds))

    def piped(corpus: Corpus, pipelines: int) -> Found:
        from understudy.loader.dali import dali_decoder

        decoder = dali_decoder(corpus.manifest.codec, device, pipelines=pipelines)
        return _rate(decode.batch_rate(decoder, corpus, clip, 4, rows // 4, plan.seconds))

    def whole_frames(corpus: Corpus) -> Found:
        return _rate(decode.torchvision_rate(corpus, clip, rows // 4, device, plan.seconds))

    report.measure("decoding", "copy from pinned memory", "GB/s", copied)
    for codec, corpus in corpora.items():
        for views in VIEWS:
            for name in ("native", "dali"):
                what = partial(loaded, corpus, views, name)
                report.measure("decoding", f"loader, {name}, {codec}, K={views}", "clips/s", what)
        for pipelines in PIPELINES:
            what = partial(piped, corpus, pipelines)
            report.measure("decoding", f"DALI, {codec}, K=4, pipelines: {pipelines}", "clips/s", what)
        if codec == "mjpeg":
            what = partial(whole_frames, corpus)
            report.measure("decoding", "torchvision's nvJPEG, whole frames, no crops", "clips/s", what)


def training(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """Steps as they are by default, and what they consist of."""
    for stage in STAGES:
        trainer = cache(partial(Trainer, stage, plan.preset, device))
        for corpus in list(corpora.values())[:1]:
            for views in VIEWS:
                _measure_steps(report, plan, corpus, views, "auto", stage, trainer)

        def waits(trainer: Callable[[], Trainer] = trainer) -> Found:
            return steps.waits(trainer()), {}

        def busy(trainer: Callable[[], Trainer] = trainer, stage: StageName = stage) -> Found:
            found = steps.profile(trainer(), out / f"profile-{stage}.txt")
            return found["busy_share"], found

        def augmented(trainer: Callable[[], Trainer] = trainer) -> Found:
            found = steps.augmentation(trainer())
            return found["ratio"], found

        if stage == "stage2":
            report.measure("training", f"{stage}: a step with augmentation over one without", "x", augmented)
        report.measure("training", f"{stage}: times that a step waits for the GPU", "", waits)
        report.measure("training", f"{stage}: share of a step that the device works", "", busy)
        del trainer, waits, busy, augmented
        _free(device)


def batches(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """How far the device goes: larger batches with the memory they take, and bare matrix products."""

    def product() -> Found:
        return _matmul_rate(device, plan.seconds) / 1e12, {"peak_flop_per_s": _peak(device)}

    report.measure("batches", "bf16 matrix product of random numbers", "TFLOP/s", product)
    for stage in STAGES:
        trainer = cache(partial(Trainer, stage, plan.preset, device))
        for rows in plan.sizes:
            report.measure(
                "batches", f"{stage}, {rows} clips", "clips/s", partial(_batch_size, plan, stage, trainer, device, rows)
            )
            if "OutOfMemory" in report.rows[-1]["note"]:
                break
        del trainer
        _free(device)


def decoders(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """Steps with every other decoder and codec."""
    for stage in STAGES:
        trainer = cache(partial(Trainer, stage, plan.preset, device))
        for number, corpus in enumerate(corpora.values()):
            for decoder in ("dali",) if number == 0 else ("auto", "dali"):
                for views in VIEWS:
                    _measure_steps(report, plan, corpus, views, decoder, stage, trainer)
        del trainer
        _free(device)


def compiled(report: Report, plan: Plan, corpora: Corpora, device: torch.device, out: Path) -> None:
    """The same steps through torch.compile, for which a C compiler must be there."""
    for stage in STAGES:
        trainer = cache(partial(Trainer, stage, plan.preset, device, compiled=True))
        rows = plan.preset.rows
        what = partial(_batch_size, plan, stage, trainer, device, rows)
        report.measure("compiled", f"{stage}, {rows} clips", "clips/s", what, needs=COMPILING_S)
        del trainer, what
        _free(device)


# In the order of what is wanted most, should the time not do. Compiling goes before what decoders that are not the
# default's do: it may become the default.
SECTIONS = {f.__name__: f for f in (agreement, training, decoding, compiled, batches, decoders)}


def _measure_steps(
    report: Report,
    plan: Plan,
    corpus: Corpus,
    views: int,
    decoder: str,
    stage: StageName,
    trainer: Callable[[], Trainer],
) -> None:
    def timed() -> Found:
        found = steps.step_times(trainer(), corpus, views, decoder)
        flops, peak = (
            plan.preset.rows * steps.clip_flops(stage, plan.preset.vit, plan.preset.mae),
            _peak(trainer().device),
        )
        for kind in ("cached", "real"):
            found[f"{kind}_flop_per_s"] = 1000 * flops / found[f"{kind}_ms"]
            found[f"{kind}_mfu"] = found[f"{kind}_flop_per_s"] / peak if peak else None
        return found["ratio"], found

    name = f"{stage}, {decoder}, {corpus.manifest.codec}, K={views}: with the loader over cached"
    report.measure("training", name, "x", timed)


def _batch_size(plan: Plan, stage: StageName, trainer: Callable[[], Trainer], device: torch.device, rows: int) -> Found:
    found = steps.batch_size(trainer(), rows)
    peak = _peak(device)
    found["flop_per_s"] = found["clips_per_second"] * steps.clip_flops(stage, plan.preset.vit, plan.preset.mae)
    found["mfu"] = found["flop_per_s"] / peak if peak else None
    return found["clips_per_second"], found


def _rate(rate: decode.Rate) -> Found:
    return rate.clips_per_second, asdict(rate)


def _make(report: Report, plan: Plan, corpora: Corpora, work: Path) -> None:
    def make() -> Found:
        corpora.update(material.make_corpora(work, plan.clips, plan.width, plan.height, plan.frames))
        return plan.clips, {}

    report.measure("material", "corpora made here, in each codec", "clips", make)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if any(part in name for part in ("NVL", "PCIe", "MIG")):
        return None
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _matmul_rate(device: torch.device, seconds: float) -> float:
    """FLOP/s of square bf16 products: what this device reaches in practice."""
    side = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    for _ in range(3):
        torch.matmul(a, b, out=product)
    decode.wait_for(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10):
            torch.matmul(a, b, out=product)
        decode.wait_for(device)
        done += 10
    return done * 2 * side**3 / (time.perf_counter() - started)


def _save(
    args: argparse.Namespace,
    report: Report,
    plan: Plan,
    corpora: Corpora,
    device: torch.device,
    started: float,
) -> None:
    result = {
        "benchmark": "gpu",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "took_seconds": round(time.time() - started),
        "machine": _machine(device),
        "versions": versions(PACKAGES),
        "settings": {**asdict(plan), "quick": args.quick},
        "flop_per_clip": {
            stage: steps.clip_flops(stage, plan.preset.vit, plan.preset.mae) for stage in ("stage1", "stage2")
        },
        "material": {
            codec: {
                "made_here": not args.corpus,
                "clips": len(corpus),
                "frames": int(corpus.frames.sum()),
                "payload_bytes": int(corpus.spans[..., 1].sum()),
                "digest": corpus.manifest.digest,
            }
            for codec, corpus in corpora.items()
        },
        "rows": report.rows,
    }
    write_atomic(args.out / "gpu.json", (json.dumps(result, indent=1) + "\n").encode())


def _machine(device: torch.device) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "native": native_status(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
            machine["driver, clock, power"] = answer.stdout.strip()
    return machine


def _line(row: dict[str, Any]) -> str:
    value = row["value"]
    if isinstance(value, bool):
        value = "yes" if value else "NO"
    elif value is not None:
        value = f"{value:,.4g} {row['unit']}"
    else:
        value = row["note"]
    return f"{row['section']:>9}  {row['name']:<62}  {value}{_beside(row['details'])}"


def _beside(details: dict[str, Any]) -> str:
    """The details that a reader of the table wants."""
    shown: list[str] = []
    if "percentile_99_difference" in details:
        shown += [f"p99 {details['percentile_99_difference']:g}", "agrees" if details["agrees"] else "DOES NOT AGREE"]
    if details.get("reason"):
        shown.append(details["reason"])
    if "cpu_ms_per_clip" in details:
        shown.append(f"{details['cpu_ms_per_clip']:.2f} CPU ms a clip")
    if "cached_ms" in details:
        shown.append(f"{details['cached_ms']:.1f} ms cached, {details['real_ms']:.1f} ms real")
        shown.append(f"{details['clips_per_second']:,.0f} clips/s")
        if details["real_mfu"] is not None:
            shown.append(f"MFU {details['cached_mfu']:.1%} cached, {details['real_mfu']:.1%} real")
    if "without_ms" in details:
        shown.append(f"{details['augmented_ms']:.1f} ms augmented, {details['without_ms']:.1f} ms without")
    if details.get("peak_bytes"):
        shown.append(f"{details['peak_bytes'] / 2**30:.1f} GiB")
    if details.get("mfu") is not None:
        shown.append(f"MFU {details['mfu']:.1%}")
    return f"  ({'; '.join(shown)})" if shown else ""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join(_line(row) for row in rows)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and the profiles")
    parser.add_argument("--corpus", nargs="+", help="packed corpora, one a codec (default: made here)")
    parser.add_argument("--work", type=Path, help="where corpora that are made here are kept (default: nowhere)")
    parser.add_argument("--minutes", type=float, default=7.0, help="start nothing after so long (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, in under 3 minutes")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="only these sections")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""The main job as a user runs it, on tiny corpora: it ends, survives kills, runs on two ranks, says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray

from understudy.models.align import Aligner
from understudy.models.augment import Augment
from understudy.models.mae import MAEConfig, MaskedAutoencoder
from understudy.models.probe import ProbeConfig
from understudy.models.vit import ViTConfig
from understudy.recipes import stages
from understudy.recipes import start as start_of_run
from understudy.recipes.check import check_corpora, check_settings
from understudy.recipes.evaluate import results_of
from understudy.recipes.mixed import MixedConfig, command_line, demo, main
from understudy.recipes.outcome import Outcome
from understudy.recipes.start import make_accelerator, open_corpora, told_in_one_line
from understudy.recipes.table import PRETRAINING, results_table
from understudy.recipes.transfer import demo as transfer_demo
from understudy.shards.corpus import Corpus
from understudy.shards.demo import make_demo
from understudy.shards.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = [
    *(
        "--vit.frames",
        "4",
        "--vit.size",
        "32",
        "--vit.patch",
        "8",
        "--vit.width",
        "32",
        "--vit.depth",
        "1",
        "--vit.heads",
        "1",
    ),
    *("--mae.decoder-width", "16", "--mae.decoder-depth", "1", "--mae.decoder-heads", "1", "--probe.epochs", "2"),
    *("--stage1.steps", "12", "--stage1.batch-size", "8", "--stage2.steps", "12", "--stage2.batch-size", "8"),
    *("--log-every", "1", "--save-every", "2", "--precision", "no", "--threads", "1"),
]


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpora")
    make_demo(out, clips=40, seed=0, workers=2)
    return out


def flags(corpora: Path, out: Path) -> list[str]:
    nohuman, synthetic = str(corpora / "demo-nohuman"), str(corpora / "demo-synthetic")
    return [
        *TINY,
        *("--mae-corpora", nohuman, "--align-corpora", nohuman, synthetic, "--out", str(out)),
        *("--probe-train", str(corpora / "demo-actions-train"), "--probe-val", str(corpora / "demo-actions-val")),
    ]


def tiny(corpora: Path, out: Path) -> MixedConfig:
    return command_line(flags(corpora, out))


def metrics(out: Path) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["stage"], row["step"], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def finished(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    main(replace(tiny(corpora, out), ablate=True))
    return out


def test_results_have_a_row_for_each_model(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    stages = {"scratch": [], "PPMA": ["stage1", "stage2"], "MAE only": ["stage1"], "alignment only": ["stage2-only"]}
    assert [row["model"] for row in results["rows"]] == list(stages)
    for row in results["rows"]:
        assert row["protocol"] == "linear" and len(row["digest"]) == 64
        assert row["top1"] <= row["top5"] <= 1 and 0 <= row["class_mean"] <= 1
        assert [stage["stage"] for stage in row["trained_on"]] == stages[row["model"]]
        assert 0 <= row["low"] <= row["top1"] <= row["high"] <= 1
        assert row["seeds"] == ProbeConfig().seeds
        assert row["steps"] == {"scratch": 0, "PPMA": 24, "MAE only": 12, "alignment only": 12}[row["model"]]
        assert (row["train_samples_per_second"] is None) == (row["model"] == "scratch")
    assert len({row["digest"] for row in results["rows"]}) == 4
    differences = [(row["model"], row["minus"]) for row in results["differences"]]
    assert differences == [(model, "scratch") for model in list(stages)[1:]] + [("PPMA", "alignment only")]
    lines = results_table(results, PRETRAINING).splitlines()
    assert len(lines) == 2 + 4 + 4 and lines[-1].startswith("| PPMA - alignment only | demo-actions-val | ")
    logged = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["data_share"] <= 1 and row["data_seconds"] >= 0 for row in logged)


def test_a_finished_run_is_not_trained_again(finished: Path, corpora: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("stage*/*")}
    main(replace(tiny(corpora, finished), ablate=True))  # as before, for other tests look at it too
    assert {path: path.stat().st_mtime_ns for path in finished.glob("stage*/*")} == before


# The job, which kills itself in the middle of a step: a kill from outside may come too late on a busy machine.
KILLED = """
import os, signal, sys
from understudy.recipes import train
from understudy.recipes.mixed import command_line, main

def step_seed(*key):
    if [str(part) for part in key[1:3]] == sys.argv[1:3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*key)

before, train.step_seed = train.step_seed, step_seed
main(command_line(sys.argv[3:]))
"""


@pytest.mark.parametrize(("stage", "step"), [("stage1", 5), ("stage2", 2)])
def test_killed_and_restarted_gives_the_same_bits(
    stage: str, step: int, finished: Path, corpora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, stage, str(step), *flags(corpora, out), "--ablate"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert [path.name for path in (out / stage).glob("step-*")], "there is a checkpoint to go on from"
    assert not (out / stage / "report.json").exists()
    main(replace(tiny(corpora, out), ablate=True))
    assert metrics(out) == metrics(finished)
    for name in ("stage1", "stage2", "stage2-only"):
        weights = (name, "encoder.safetensors")
        assert out.joinpath(*weights).read_bytes() == finished.joinpath(*weights).read_bytes()
        assert (out / name / "ledger.json").read_bytes() == (finished / name / "ledger.json").read_bytes()


def test_two_ranks_train_on_the_same_samples_as_one(finished: Path, corpora: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "recipes" / "mixed.py"), *flags(corpora, out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = metrics(finished), metrics(out)
    # The same clips, masks and start: only the order of float additions differs.
    assert [row[:2] for row in one if row[0] != "stage2-only"] == [row[:2] for row in two]
    for name in ("stage1", "stage2"):
        ledger = json.loads((out / name / "ledger.json").read_text())
        assert ledger == json.loads((finished / name / "ledger.json").read_text())
        assert ledger["steps"] == 12
        assert sum(ledger["seen"].values()) == 12 * 8 / {"stage1": 2, "stage2": 1}[name]
        assert ledger["skipped"] == {}
    for (_, step, a), (_, _, b) in zip(one, two):
        assert b == pytest.approx(a, rel=2e-2 if step > 4 else 1e-4)


def test_bad_input_is_one_clear_line(corpora: Path, finished: Path, tmp_path: Path) -> None:
    start = tiny(corpora, tmp_path / "run")
    with pytest.raises(UserError, match="no manifest"):
        main(replace(start, mae_corpora=(str(tmp_path),)))
    with pytest.raises(UserError, match="of kind real, but only no-human, synthetic"):
        main(replace(start, mae_corpora=(str(corpora / "demo-actions-train"),)))
    before = (finished / "config.json").read_bytes()
    other = replace(start, out=finished, stage1=replace(start.stage1, rate=0.5))
    with pytest.raises(UserError, match=r"other settings: stage1.rate was 0.001, is 0.5; give the same"):
        main(other)
    swapped = replace(start, out=finished, align_corpora=start.align_corpora[::-1])
    with pytest.raises(UserError, match=r"other corpora, by their digests; name the same with --align-corpora"):
        main(swapped)
    assert (finished / "config.json").read_bytes() == before


def test_corpora_may_move_and_a_probe_may_change(finished: Path, corpora: Path, tmp_path: Path) -> None:
    trained = {name: (finished / name / "model.safetensors").stat().st_mtime_ns for name in ("stage1", "stage2")}
    moved = tmp_path / "elsewhere"
    shutil.copytree(corpora, moved)
    start = tiny(moved, finished)
    results = main(replace(start, ablate=True, probe=replace(start.probe, epochs=1)))
    assert len(results["rows"]) == 4
    assert trained == {name: (finished / name / "model.safetensors").stat().st_mtime_ns for name in trained}
    main(replace(tiny(corpora, finished), ablate=True))  # as before, for other tests look at it too


def test_weights_of_the_demo_are_for_the_demo_alone(corpora: Path, tmp_path: Path) -> None:
    nohuman = str(corpora / "demo-nohuman")
    check_settings(command_line(["demo", "--out", str(tmp_path), "--mae-corpora", nohuman, "--align-corpora", nohuman]))


@pytest.mark.parametrize("recipe", ["mixed.py", "transfer.py"])
def test_a_path_that_will_not_do_is_told_in_one_line(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, str(ROOT / "recipes" / recipe), "--out", str(tmp_path / "file" / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{recipe[:-3]}: {tmp_path / 'file'}")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--align-weights", "1", "2", "3"], "stage2: 3 weights for 2 corpora; give --align-weights"),
        (["--mae-weights", "1", "2"], "stage1: 2 weights for 1 corpora"),
        (["--align-weights", "1", "-2"], "stage2: --align-weights must be positive"),
        (["--stage2.views", "3"], "stage2: batch size 8 does not divide into 3 views"),
        (["--stage2.batch-size", "1", "--stage2.blend"], "stage2: .*can't be blended from 2 corpora"),
        (
            ["--stage2.augment.mixup", "1", "--stage2.augment.group", "16"],
            "stage2: groups of 16 rows",
        ),
        (["--stage2.crop-scale", "0.5", "2"], "stage2: views: scale"),
        (["--save-every", "3", "--log-every", "2"], "--save-every 3 must be a multiple of --log-every 2"),
        (["--stage1.augment.mixup", "0.8"], "stage1: only stages with labels"),
        (["--mae.skip-holes"], "stage1: --mae.skip-holes, but no corpus says"),
        (["--mae.mask-ratio", "0.01"], "--mae.mask-ratio 0.01 leaves 32 of 32 tokens to see and 0 to ask for"),
        (["--smoothing", "2"], "--smoothing must be from 0 to 1"),
        (["--drop-path", "1"], "--drop-path from 0 to under 1"),
        (["--probe.seeds", "0"], "--probe: a probe needs"),
        (["--start", "scratch"], "--mae-corpora: stage 1, which they are for, is not run with --start"),
        (["--start", "scratch", "--stages", "stage1"], "--start leaves stage 1 out, and --stages stage1 all but it"),
        (["--start", "nowhere"], "nowhere: no such file or folder"),
        (["--probe-val", "nowhere"], "nowhere: no manifest.json"),
    ],
)
def test_a_wrong_flag_is_told_before_anything_is_trained_or_claimed(
    wrong: list[str], words: str, corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as told:
        main(command_line([*flags(corpora, tmp_path / "run"), *wrong]))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_must_divide_among_the_ranks(corpora: Path, tmp_path: Path) -> None:
    config, ranks = tiny(corpora, tmp_path), SimpleNamespace(num_processes=8, process_index=0, device="cpu")
    opened = open_corpora(config)
    with pytest.raises(UserError, match="stage1: batch size 8 does not divide into 2 views on 8 ranks"):
        check_corpora(config, opened, cast(Accelerator, ranks))
    config = replace(config, stage1=replace(config.stage1, batch_size=16))
    check_corpora(config, opened, cast(Accelerator, ranks))
    config = replace(config, stage2=replace(config.stage2, blend=True))
    with pytest.raises(UserError, match=r"stage2: batch size . does not divide into 1 views on 8 ranks"):
        check_corpora(config, opened, cast(Accelerator, ranks))


def test_clips_that_are_mixed_with_each_other_must_be_on_one_rank(corpora: Path, tmp_path: Path) -> None:
    config, ranks = tiny(corpora, tmp_path), SimpleNamespace(num_processes=2, process_index=0, device="cpu")
    config = replace(config, stage2=replace(config.stage2, batch_size=6, augment=Augment(mixup=0.8)))
    opened = open_corpora(config)
    with pytest.raises(UserError, match=r"^stage2: a batch of 6 on 2 ranks parts clips .*; give a multiple of 4, or"):
        check_corpora(config, opened, cast(Accelerator, ranks))
    ranks.num_processes = 1
    check_corpora(config, opened, cast(Accelerator, ranks))


def test_corpora_are_named_all_or_for_the_demo_none(tmp_path: Path) -> None:
    for name in ("ppma", "as_released"):
        with pytest.raises(
            UserError, match=r"with --mae-corpora, --align-corpora; for a probe, --probe-train, --probe-val$"
        ):
            main(command_line([name, "--out", str(tmp_path / "run"), "--precision", "no"]))
    with pytest.raises(UserError, match="with --align-corpora, --probe-val; or none of them, to train on the demo's"):
        main(command_line([*TINY, "--mae-corpora", "a", "--probe-train", "b", "--out", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


def test_a_failed_start_on_demo_corpora_leaves_them_to_the_next(tmp_path: Path) -> None:
    arguments = [*TINY, "--out", str(tmp_path), "--demo-clips", "20", "--stage1.steps", "1", "--stage2.steps", "1"]
    with pytest.raises(UserError, match="does not divide into 3 views"):
        main(command_line([*arguments, "--stage2.views", "3"]))
    assert [path.name for path in tmp_path.iterdir()] == ["corpora"]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    assert main(command_line(arguments))
    assert made and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == made


def test_differences_are_paired_by_group(corpora: Path) -> None:
    val = Corpus.open(corpora / "demo-actions-val")
    labels, ok = torch.from_numpy(val.label), torch.ones(len(val), dtype=torch.bool)
    wrong = (labels + 1) % 8
    half = torch.arange(len(val)) < len(val) // 2

    def outcome(model: str, answers: torch.Tensor) -> Outcome:
        return Outcome(model, "actions", "linear", F.one_hot(answers, 8)[None].float(), ok, {})

    outcomes = [
        outcome("scratch", wrong),
        outcome("PPMA", labels),
        outcome("MAE only", wrong),
        outcome("alignment only", torch.where(half, labels, wrong)),
    ]

    def last(groups: NDArray[np.int64]) -> dict[str, Any]:
        grouped = cast(Corpus, SimpleNamespace(keys=val.keys, label=val.label, group=groups))
        row = results_of(Accelerator(cpu=True), outcomes, grouped)["differences"][-1]
        assert (row["model"], row["minus"], row["difference"]) == ("PPMA", "alignment only", pytest.approx(0.5))
        return row

    alone, grouped = last(np.arange(len(val))), last(np.arange(len(val)) * 4 // len(val))
    # Four recordings say less than all these videos.
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])


@pytest.mark.parametrize(("gpu", "native", "precision"), [(True, True, "bf16"), (True, False, "no")])
def test_auto_takes_bf16_where_a_gpu_computes_in_it(
    gpu: bool, native: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(start_of_run, "Accelerator", lambda **kwargs: asked.update(kwargs))
    make_accelerator(demo())
    assert asked["mixed_precision"] == precision
    make_accelerator(transfer_demo())
    assert asked["mixed_precision"] == precision
    assert asked["kwargs_handlers"][0].to_kwargs() == {"broadcast_buffers": False}


def test_a_precision_that_is_not_kept_in_checkpoints_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for precision in ("fp8x", "fp16"):
        with pytest.raises(SystemExit):
            command_line(["--precision", precision])
        assert "precision" in capsys.readouterr().err


def test_only_heads_of_other_corpora_are_looked_for_among_the_gradients(
    corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, bool] = {}

    def note(accelerator: Accelerator, name: str, *_: object, **__: object) -> None:
        assert accelerator.ddp_handler is not None and not accelerator.ddp_handler.broadcast_buffers
        asked[name] = accelerator.ddp_handler.find_unused_parameters

    monkeypatch.setattr(stages, "train_stage", note)
    config = tiny(corpora, tmp_path)
    accelerator, opened = make_accelerator(config), open_corpora(config)
    two = Aligner(config.vit, {"demo-nohuman": 2, "demo-synthetic": 2})
    shared = Aligner(config.vit, {"demo-nohuman": 2, "demo-synthetic": 2}, shared_head=True)
    for name, module, use in (
        ("stage1", MaskedAutoencoder(config.vit, config.mae), "mae"),
        ("stage2", two, "align"),
        ("stage2-shared", shared, "align"),
        ("stage1", MaskedAutoencoder(config.vit, config.mae), "mae"),
    ):
        stages.run_stage(accelerator, name, module, opened[use], config)
    assert asked == {"stage1": False, "stage2": True, "stage2-shared": False}


def test_a_full_disk_is_told_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^mixed: no space left on the disk"), told_in_one_line("mixed"):
        raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(SystemExit, match=r"^mixed: no such thing"), told_in_one_line("mixed"):
        raise UserError("no such thing")
    with pytest.raises(PermissionError), told_in_one_line("mixed"):
        raise PermissionError(errno.EACCES, "denied")


def test_a_loss_that_is_not_finite_stops_with_step_and_samples(corpora: Path, tmp_path: Path) -> None:
    start = tiny(corpora, tmp_path)
    with pytest.raises(UserError, match=r"not finite at step \d+ \(source demo-nohuman, samples \["):
        main(replace(start, stage1=replace(start.stage1, rate=1e38, warmup=0)))


def test_the_command_line_overrides_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line([]) == demo()
    changed = command_line(["--stage1.steps", "7", "--mae.mask-ratio", "0.8"])
    assert changed.stage1 == replace(demo().stage1, steps=7)
    assert changed.mae == replace(demo().mae, mask_ratio=0.8)
    ppma = command_line(["ppma", "--seed", "3"])
    assert (ppma.vit, ppma.mae, ppma.seed) == (ViTConfig(), MAEConfig(), 3)
    with pytest.raises(SystemExit) as error:
        command_line(["--stage1.stepz", "7"])
    assert error.value.code == 2
    assert "stepz" in capsys.readouterr().err

"""The main job as a user runs it, on tiny corpora: it ends, survives kills, runs on two ranks, says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.models.mae import MAEConfig
from understudy.models.probe import ProbeConfig
from understudy.models.vit import ViTConfig
from understudy.recipes.mixed import MixedConfig, command_line, demo, main
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
    rows = json.loads((finished / "results.json").read_text())
    single = [row for row in rows if row["protocol"] == "linear probe"]
    assert [row["model"] for row in single] == ["scratch", "PPMA", "MAE only", "alignment only"]
    for row in single:
        assert 0 <= row["low"] <= row["top1"] <= row["high"] <= 1
        assert row["seeds"] == ProbeConfig().seeds
        assert row["steps"] == {"scratch": 0, "PPMA": 24, "MAE only": 12, "alignment only": 12}[row["model"]]
        assert (row["train_samples_per_second"] is None) == (row["model"] == "scratch")
    assert {row["model"] for row in rows} > {"PPMA - scratch"}
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


def test_bad_input_is_one_clear_line(corpora: Path, tmp_path: Path) -> None:
    start = tiny(corpora, tmp_path / "run")
    with pytest.raises(UserError, match="no manifest"):
        main(replace(start, mae_corpora=(tmp_path,)))
    real = corpora / "demo-actions-train"
    with pytest.raises(UserError, match="of kind real, but only no-human, synthetic"):
        main(replace(start, out=tmp_path / "kinds", mae_corpora=(real,)))
    with pytest.raises(UserError, match="other settings"):
        main(replace(start, seed=1))
    with pytest.raises(UserError, match="2 weights for 1 corpora"):
        main(replace(start, out=tmp_path / "weights", mae_weights=(1.0, 2.0)))


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

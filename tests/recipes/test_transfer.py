"""The transfer table as a user makes it, on tiny corpora: all protocols, what is cached, what is refused."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from understudy.loader import Clip, EvalViews
from understudy.models.augment import Augment
from understudy.models.loading import header, load_encoder
from understudy.models.probe import ProbeConfig
from understudy.models.vit import VideoViT, ViTConfig
from understudy.models.whole import load_classifier
from understudy.recipes import features, finetune
from understudy.recipes.entries import open_model, scratch_model
from understudy.recipes.features import Features, frozen_features
from understudy.recipes.finetune import AverageConfig, learn_average
from understudy.recipes.probing import Scores, kept_scores, probe_linearly
from understudy.recipes.table import results_table
from understudy.recipes.transfer import TransferConfig, command_line, main
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.pack import PackConfig, pack
from understudy.shards.sources import Source

ROOT = Path(__file__).parents[2]
VIT = ViTConfig(frames=4, size=32, patch=8, width=32, depth=1, heads=2)
SHAPE = ["--vit.frames", "4", "--vit.size", "32", "--vit.patch", "8", "--vit.width", "32", "--vit.depth", "1"]
CLASSES = ("dark", "grey", "bright")
QUICK = [
    *SHAPE,
    *("--vit.heads", "2", "--stride", "1", "--threads", "1", "--precision", "no", "--train-views.crops", "2"),
    *("--probe.epochs", "20", "--probe.seeds", "2", "--probe.rates", "1e-6", "1e-1"),
    *("--attentive.heads", "2", "--attentive.blocks", "2", "--attentive.epochs", "2", "--attentive.seeds", "1"),
    *("--finetune.epochs", "2", "--finetune.batch-size", "6", "--finetune.seeds", "2", "--averaging.epochs", "1"),
]


def read_shades(source: Source, *, low: int) -> Iterator[NDArray[np.uint8]]:
    """Noise around a level that tells the label."""
    rng = np.random.default_rng(int(source.id.split("/")[1]))
    for _ in range(8):
        yield (low + 70 * source.label + rng.integers(30, size=(36, 48, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpora shades-train, in which three videos at a time are of one group, and shades-val."""
    out = tmp_path_factory.mktemp("data")
    for split, count in (("train", 45), ("val", 24)):
        sources = [Source(f"{split}/{i}", i % 3, group=f"{split} {i % 3} {i // 9}") for i in range(count)]
        config = PackConfig("shades-" + split, "real", CLASSES, "CC0-1.0", b"secret " * 4, short_side=36)
        pack(
            sources, functools.partial(read_shades, low=20), out / f"shades-{split}", config, workers=0, progress=False
        )
    return out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A stage of a run with ledger and report, and a folder of save_pretrained."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("stage1", "stage2")):
        torch.manual_seed(seed)
        VideoViT(VIT).save_pretrained(folder / name)
        ledger = {"steps": 3, "seen": {"nh": 12}, "skipped": {}, "digest": "d", "corpora": {"nh": {"kind": "no-human"}}}
        (folder / name / "ledger.json").write_text(json.dumps(ledger))
        report = {"steps": 3, "samples": 12, "seconds": 2.0, "data_seconds": 0.5, "skipped": 0, "final_loss": 1.0}
        (folder / name / "report.json").write_text(json.dumps(report))
    torch.manual_seed(2)
    VideoViT(VIT).save_pretrained(folder / "other")
    return folder / "stage2", folder / "other"


def config_of(data: Path, out: Path, *more: str) -> TransferConfig:
    return command_line([*QUICK, "--corpora", str(data / "shades"), "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(data: Path, checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    a, b = map(str, checkpoints)
    main(config_of(data, out, "--checkpoint", "scratch", f"ours={a}", "--average", a, b))
    return out


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_every_model_has_a_row_under_every_protocol(finished: Path) -> None:
    results = results_of(finished)
    models, protocols = ("scratch", "ours", "adaptive average"), ("linear", "attentive", "finetune")
    expected = [*((p, m) for p in protocols for m in models), ("joint", "adaptive average")]
    assert [(row["protocol"], row["model"]) for row in results["rows"]] == expected
    for row in results["rows"]:
        assert 0 <= row["low"] <= row["top1"] <= row["high"] <= 1
        assert row["top5"] == 1  # of three classes
        assert row["class_mean"] == pytest.approx(row["top1"])  # as many videos of each class
        assert row["seeds"] == {"linear": 2, "attentive": 1, "finetune": 2, "joint": 1}[row["protocol"]]
        assert np.mean(row["seeds_top1"]) == pytest.approx(row["top1"])
        assert (row["videos"], row["groups"], row["failed"], row["excluded"]) == (24, 9, [], [])
        assert row["val_views"] == "2x1 (even)"
        assert (row["classes"], len(row["digest"])) == (3, 64)
        finetuned = ("train_samples_per_second", "eval_views_per_second")
        for speed in finetuned if row["protocol"] in ("finetune", "joint") else ("feature_seconds", "feature_views"):
            assert row[speed] > 0
        if row["protocol"] == "linear":
            assert row["top1"] > 0.9  # brightness is there to be seen, in features of any encoder
            assert row["rate"] == 1e-1  # 1e-6 can't have learnt it
            assert set(row["tuning"]) == {"1e-06", "0.1"}
    ours = next(row for row in results["rows"] if row["model"] == "ours")
    assert [stage["stage"] for stage in ours["trained_on"]] == ["stage1", "stage2"]
    assert ours["trained_on"][0]["seen"] == {"nh": 12}
    assert ours["trained_on"][0]["corpora"]["nh"]["kind"] == "no-human"
    assert ours["trained_on"][0]["samples_per_second"] == 6
    average = next(row for row in results["rows"] if row["model"] == "adaptive average")
    assert sum(average["shares"]) == pytest.approx(1)
    assert len({average["digest"], *(part["digest"] for part in average["average_of"])}) == 3
    minus = {(row["protocol"], row["model"], row["minus"]) for row in results["differences"]}
    assert minus == {(p, m, "scratch") for p in protocols for m in models[1:]}
    assert all(row["low"] <= row["difference"] <= row["high"] for row in results["differences"])
    assert {row["groups"] for row in results["differences"]} == {9}
    table = results_table(results)
    assert table.count(", 9 groups |") == 10
    assert table.count("\n") == 1 + 10 and "| joint head | adaptive average |" in table and "adaptive average" in table


def test_what_is_done_is_not_done_again(finished: Path, data: Path, checkpoints: tuple[Path, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    rows = results_of(finished)["rows"]
    a, b = map(str, checkpoints)
    again = main(config_of(data, finished, "--checkpoint", "scratch", f"ours={a}", "--average", a, b))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == before
    assert [row["top1"] for row in again["rows"]] == [row["top1"] for row in rows]
    for name in (
        "feature_seconds",
        "probe_seconds",
        "train_samples_per_second",
        "eval_views_per_second",
    ):  # speeds are those of then
        assert [row.get(name) for row in again["rows"]] == [row.get(name) for row in rows]


def test_what_is_kept_of_an_encoder_is_not_taken_for_that_of_another_with_its_weights(
    data: Path, tmp_path: Path
) -> None:
    for heads in (2, 4):
        torch.manual_seed(0)
        VideoViT(replace(VIT, heads=heads)).save_pretrained(tmp_path / f"{heads}-heads")
    few = ("--protocols", "linear", "finetune", "--finetune.epochs", "1", "--finetune.seeds", "1")
    names = ("--checkpoint", *(str(tmp_path / f"{heads}-heads") for heads in (2, 4)))
    rows = main(config_of(data, tmp_path / "out", *few, *names))["rows"]
    assert rows[0]["digest"] == rows[1]["digest"]
    for kept in ("probes/linear-*", "finetune-*", "features/shades-val-*"):
        assert len(list((tmp_path / "out").glob(kept))) == 2, kept


def test_the_average_moves_to_the_good_one_of_two_encoders(data: Path, tmp_path: Path) -> None:
    good, destroyed = open_model("scratch", VIT), scratch_model(VideoViT(VIT))
    torch.manual_seed(0)
    for parameter in destroyed.encoder.parameters():
        torch.nn.init.normal_(parameter, std=10)
    train, val = (Corpus.open(data / f"shades-{split}") for split in ("train", "val"))
    config = AverageConfig(epochs=30, batch_size=9, rate=5e-2, augment=Augment())
    for number, pair in enumerate(((good, destroyed), (destroyed, good))):
        clip, out = Clip(frames=4, stride=1, size=32), tmp_path / str(number)
        learned = learn_average(Accelerator(cpu=True), pair, train, val, clip, EvalViews(), config, out, threads=1)
        assert learned.shares[number] > 0.6  # of 0.5 at the start
        right = learned.joint.logits.argmax(dim=1) == torch.from_numpy(val.label)
        assert right.float().mean() > 0.8  # chance is 0.33


def test_more_seeds_or_other_views_train_only_what_is_missing(data: Path, tmp_path: Path) -> None:
    tune = ("--protocols", "finetune", "--finetune.epochs", "1")
    (first,) = main(config_of(data, tmp_path, *tune, "--finetune.seeds", "1"))["rows"]
    reports = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/report.json")}
    (two,) = main(config_of(data, tmp_path, *tune, "--finetune.seeds", "2"))["rows"]
    assert two["seeds_top1"][0] == first["seeds_top1"][0] and len(list(tmp_path.glob("*/report.json"))) == 2
    (other,) = main(config_of(data, tmp_path, *tune, "--finetune.seeds", "2", "--val-views.crops", "2"))["rows"]
    assert len(list(tmp_path.glob("*/report.json"))) == 2 and not set(other["scores"]) & set(two["scores"])
    assert {path: path.stat().st_mtime_ns for path in reports} == reports


def test_results_of_another_format_are_made_anew(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, names = Corpus.open(data / "shades-val"), set[str]()
    for number in (features.FORMAT, features.FORMAT + 1):
        monkeypatch.setattr(features, "FORMAT", number)
        names.add(features.cache_name("finetune", corpus, {"seed": 0}))
    assert len(names) == 2


def test_fine_tuning_learns_and_the_online_probe_does_so_on_a_trunk_that_stays(data: Path, tmp_path: Path) -> None:
    config = config_of(
        *(data, tmp_path, "--protocols", "finetune", "online"),
        *("--finetune.epochs", "10", "--finetune.rate", "1e-2", "--finetune.seeds", "1"),
        *("--online.epochs", "10", "--online.rate", "5e-2", "--online.seeds", "1", "--online.batch-size", "6"),
        *("--online.augment.mixup", "0.8", "--online.augment.group", "2"),
    )
    rows = {row["protocol"]: row for row in main(config)["rows"]}
    assert rows["finetune"]["top1"] > 0.8 and rows["online"]["top1"] > 0.8  # chance is 0.33
    assert rows["online"]["rate"] == 5e-2 and rows["online"]["steps"] == 75
    start = open_model("scratch", VIT).encoder.state_dict()
    tuned, frozen = (load_encoder(next(tmp_path.glob(f"{p}-*")))[0].state_dict() for p in ("finetune", "online"))
    torch.testing.assert_close(frozen, start, rtol=0, atol=0)
    assert all(not torch.equal(tuned[name], tensor) for name, tensor in start.items())
    assert "| online linear | scratch |" in results_table({"rows": [rows["online"]], "differences": []})


def test_every_command_keeps_its_results_and_names_its_scores(finished: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    linear = ("--protocols", "linear", "--probe.rates", "1e-1")
    first = main(config_of(data, out, *linear))
    main(config_of(data, out, *linear, "--val-views.crops", "2"))
    main(config_of(data, out, *linear, "--threads", "2"))  # not another result
    kept = [json.loads(path.read_text()) for path in (out / "results").iterdir()]
    assert sorted(results["config"]["val_views"]["crops"] for results in kept) == [1, 2]
    assert results_of(out) == results_of(out) | {"rows": json.loads(json.dumps(first["rows"]))}
    val = Corpus.open(data / "shades-val")
    for row in results_of(finished)["rows"]:
        assert len(row["scores"]) == (2 if row["protocol"] == "finetune" else 1)
        assert all((finished / file).is_file() for file in row["scores"])
        lines = list(csv.DictReader((finished / row["predictions"]).open()))
        assert list(lines[0]) == ["key", "seed", "label", "prediction", "second", "third"]
        assert [line["key"] for line in lines] == list(val.keys) * row["seeds"]
        assert {line["label"] for line in lines} == set(CLASSES)
        assert np.mean([line["label"] == line["prediction"] for line in lines]) == pytest.approx(row["top1"])
    assert len({row["predictions"] for row in results_of(finished)["rows"]}) == len(results_of(finished)["rows"])


def test_what_was_killed_before_it_was_scored_is_scored_and_not_trained_again(
    finished: Path, data: Path, checkpoints: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "out", 0
    config = config_of(data, out, "--checkpoint", "scratch", "--protocols", "finetune")
    config = replace(config, average=tuple(map(str, checkpoints)))

    def killed_every_other_time(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise KeyboardInterrupt
        return score(*arguments)

    score, reports = finetune.score, dict[Path, int]()
    monkeypatch.setattr(finetune, "score", killed_every_other_time)
    for _ in range(5):  # the average with its head, then two seeds of each model
        with pytest.raises(KeyboardInterrupt):
            main(config)
        reports |= {path: path.stat().st_mtime_ns for path in out.glob("*/report.json") if path not in reports}
    rows = main(config)["rows"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/report.json")} == reports and len(reports) == 5
    for report in reports:
        kept = {path.name for path in report.parent.iterdir()} - {"model.safetensors", "ledger.json", "report.json"}
        scores, origin = sorted(kept, reverse=True)
        assert origin == "origin.json" and scores.startswith("scores-shades-val-")
    told = {(row["protocol"], row["model"]): row["seeds_top1"] for row in results_of(finished)["rows"]}
    assert {(row["protocol"], row["model"]): row["seeds_top1"] for row in rows}.items() <= told.items()
    monkeypatch.undo()
    scores = next(out.glob("finetune-*/scores-*.safetensors"))
    logits = load_file(scores)["logits"]
    scores.unlink()
    main(config)
    torch.testing.assert_close(load_file(scores)["logits"], logits, rtol=0, atol=0)


def test_fine_tuned_models_are_kept_and_score_as_their_rows_say(finished: Path, data: Path) -> None:
    val, clip, views = Corpus.open(data / "shades-val"), Clip(frames=4, stride=1, size=32), EvalViews(2, 1)
    (row,) = (r for r in results_of(finished)["rows"] if (r["protocol"], r["model"]) == ("finetune", "ours"))
    for file in row["scores"]:
        model, classes = load_classifier((finished / file).parent)
        assert classes == list(CLASSES)
        logits, _ = finetune.score(Accelerator(cpu=True), model, val, clip, views, threads=1)
        torch.testing.assert_close(logits, load_file(finished / file)["logits"])


@pytest.mark.parametrize("level", ["pooled", "tokens"])
def test_features_from_the_disk_are_those_of_memory(level: Any, data: Path, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    encoder, corpus = VideoViT(VIT), Corpus.open(data / "shades-val")
    two_by_two = EvalViews(2, 2)

    def taken(cache: Path | None, views: EvalViews = two_by_two) -> Features:
        clip = Clip(frames=4, stride=1, size=32)
        return frozen_features(accelerator, encoder, corpus, clip, views, level=level, threads=1, cache=cache)

    plain, stored = taken(None), taken(tmp_path)
    assert plain.values.shape == ((24, 4, 32) if level == "pooled" else (24, 4, VIT.tokens, 32))
    torch.testing.assert_close(plain.values, stored.values, rtol=0, atol=0)
    assert plain.ok.all() and stored.ok.all() and not stored.cached
    assert taken(tmp_path).cached
    assert not taken(tmp_path, EvalViews(1, 2)).cached
    assert not taken(tmp_path, EvalViews(2, 2, "released")).cached
    with torch.no_grad():
        encoder.norm.bias.add_(1)
    moved = taken(tmp_path)
    assert not moved.cached and not torch.equal(moved.values, plain.values)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="delete it"):
        taken(tmp_path)


def test_the_rate_is_chosen_without_a_look_at_the_validation_videos(data: Path) -> None:
    corpus = Corpus.open(data / "shades-train")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(45, 2, 8, generator=generator) + torch.from_numpy(corpus.label)[:, None, None]
    train = Features(values, torch.ones(45, dtype=torch.bool), 0.0, False)
    config = ProbeConfig(epochs=3, rates=(1e-4, 1e-2, 1.0), seeds=2)
    chosen = [
        probe_linearly(train, replace(train, values=val), corpus, config, torch.device("cpu"))
        for val in (values, -values, torch.zeros_like(values))
    ]
    assert chosen[0].tuning == chosen[1].tuning == chosen[2].tuning
    assert len({scores.rate for scores in chosen}) == 1
    assert chosen[0].logits.shape == (2, 45, 3)


def test_scores_of_a_probe_are_kept_whole_and_a_broken_file_is_named(tmp_path: Path) -> None:
    scores = Scores(torch.randn(2, 5, 3), 1e-3, {"0.001": 0.5, "0.01": 0.25}, 7.5)
    file = tmp_path / "probes" / "scores.safetensors"
    assert kept_scores(file, False, lambda: scores) is scores and not file.exists()
    assert kept_scores(file, True, lambda: scores) is scores
    kept = kept_scores(file, True, lambda: pytest.fail("made again"))
    torch.testing.assert_close(kept.logits, scores.logits, rtol=0, atol=0)
    assert (kept.rate, kept.tuning, kept.seconds) == (scores.rate, scores.tuning, scores.seconds)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="delete it"):
        kept_scores(file, True, lambda: scores)


def test_a_validation_video_that_fails_counts_as_wrong_unless_it_is_excluded(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    val = Corpus.open(tmp_path / "data" / "shades-val")
    offset, size = val.spans[5, 0].tolist()
    with val.shard_path(int(val.shard[5])).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    linear = ("--protocols", "linear", "--probe.rates", "1e-1")
    row = main(config_of(tmp_path / "data", tmp_path / "out", *linear))["rows"][0]
    assert (row["failed"], row["videos"]) == ([val.keys[5]], 24)
    assert row["top1"] == row["top5"] == pytest.approx(23 / 24)
    assert "1 failed" in results_table({"rows": [row], "differences": []})
    without = main(config_of(tmp_path / "data", tmp_path / "out", *linear, "--exclude", val.keys[5]))["rows"][0]
    assert (without["failed"], without["excluded"], without["videos"], without["top1"]) == ([], [val.keys[5]], 23, 1)
    with pytest.raises(UserError, match="no validation sample has such a key"):
        main(config_of(tmp_path / "data", tmp_path / "out", *linear, "--exclude", "beef"))


def test_bad_input_is_one_clear_line(data: Path, checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    def error(*more: str, corpora: Path = data / "shades") -> str:
        with pytest.raises(UserError) as caught:
            main(replace(config_of(data, tmp_path / "out", "--protocols", "linear", *more), corpora=(str(corpora),)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights = VideoViT(VIT).state_dict()
    save_file({**weights, "norm.weight": torch.ones(7)}, tmp_path / "shape.safetensors", header(VIT))
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "norm.weight is [7], not [32]" in error("--checkpoint", str(tmp_path / "shape.safetensors"))
    assert "not an encoder's weights" in error("--checkpoint", str(tmp_path / "other.safetensors"))
    assert "no such file or folder" in error("--checkpoint", "a=/nowhere/at/all")
    assert "takes two checkpoints, not 1" in error("--average", str(checkpoints[0]))
    assert "the same name" in error("--checkpoint", "a=scratch", "a=scratch")
    VideoViT(replace(VIT, width=16)).save_pretrained(tmp_path / "narrow")
    assert "different shapes" in error("--average", str(checkpoints[0]), str(tmp_path / "narrow"))

    sources = [Source(f"x/{i}", i % 3) for i in range(6)]
    for split, classes in (("train", CLASSES), ("val", ("dark", "bright", "grey"))):
        config = PackConfig(f"mixed-{split}", "real", classes, "CC0-1.0", b"secret " * 4, short_side=36)
        read = functools.partial(read_shades, low=20)
        pack(sources, read, tmp_path / f"mixed-{split}", config, workers=0, progress=False)
    assert "class lists differ (3 and 3 classes, first at label 1)" in error(corpora=tmp_path / "mixed")
    assert "no manifest.json" in error(corpora=tmp_path / "nothing")


def test_two_ranks_give_the_same_table(finished: Path, data: Path, tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "transfer.py")
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", recipe]
    arguments = [*QUICK, "--corpora", str(data / "shades"), "--out", str(tmp_path), "--checkpoint", "scratch"]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *run, *arguments], env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one = {row["protocol"]: row for row in results_of(finished)["rows"] if row["model"] == "scratch"}
    for row in results_of(tmp_path)["rows"]:
        assert row["digest"] == one[row["protocol"]]["digest"]
        assert row["top1"] == pytest.approx(one[row["protocol"]]["top1"], abs=0.1)
    assert results_of(tmp_path)["machine"]["ranks"] == 2


def test_the_documents_table_and_chart_are_of_the_results(finished: Path, tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "transfer.py")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- transfer -->\nold\n<!-- /transfer -->\nafter\n")
    chart = tmp_path / "chart.svg"
    done = subprocess.run(
        [sys.executable, script, str(finished / "results.json"), "--svg", str(chart), "--into", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    row = results_of(finished)["rows"][0]
    assert f"| {100 * row['top1']:.1f} | {100 * row['low']:.1f} to" in text
    assert "time, here the protocol `online`; \\* marks our `linear`" in text
    assert "*quoted:* PPMA" in text and "| ours | not run |" in text
    assert chart.read_text().count("<circle") == 10
    assert chart.read_text().count('stroke-dasharray="1 3"') == 4  # chance, in each block


@pytest.mark.parametrize("name", ["demo-actions", "actions7", "ablations"])
def test_the_page_shows_what_was_measured(name: str) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / f"transfer-{name}.json").read_bytes())
    page = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8").splitlines()
    assert len(results["rows"]) >= 3
    assert set(results_table(results).splitlines()) <= set(page)

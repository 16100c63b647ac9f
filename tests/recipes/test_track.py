"""A dashboard gets the numbers of metrics.jsonl, each once, however often a run was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from understudy.recipes import train
from understudy.recipes.mixed import command_line, main
from understudy.recipes.track import flat
from understudy.shards.errors import UserError


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bars")
    tiny_job.make_corpora(root)
    return root


def run(bars: Path, out: Path, track: str) -> None:
    main(command_line([*tiny_job.arguments(bars, out), f"--track={track}", "--save-every=4"]))


def stop_after(saves: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the run, as a kill would, in the steps after each of these checkpoints."""
    write, written = train.MetricsLog.write, 0

    def write_and_stop(log: Any, row: dict[str, Any]) -> None:
        nonlocal written
        write(log, row)
        written += 1
        if written in saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.MetricsLog, "write", write_and_stop)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_every_step_once(bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_after((7, 12, 25), monkeypatch)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(bars, tmp_path, "tensorboard")
    run(bars, tmp_path, "tensorboard")
    seen: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((tmp_path / "tensorboard").glob("events.*")):  # one of each start
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            seen.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    rows = rows_of(tmp_path)
    assert len(rows) == 24
    for stage, before in (("stage1", 0), ("stage2", 12)):
        for key in ("loss", "rate", "samples_per_second", "data_share", "skipped"):
            assert [step - before for step, _ in seen[f"{stage}/{key}"]] == list(range(1, 13))
        losses = [row["loss"] for row in rows if row["stage"] == stage]
        assert [value for _, value in seen[f"{stage}/loss"]] == pytest.approx(losses)
    assert len(list((tmp_path / "tensorboard").glob("*/hparams.yml"))) == 1


class Noted(GeneralTracker):
    """Stands in for a tracker that is a service."""

    requires_logging_directory = False
    started: ClassVar[list[tuple[str, dict[str, Any]]]]
    settings: ClassVar[list[dict[str, Any]]]
    logged: ClassVar[list[tuple[int, dict[str, Any]]]]

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.started.append((run_name, options))

    @property
    def tracker(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.logged.append((step, values))


@pytest.fixture(params=["wandb", "trackio"])
def noted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Noted]]:
    class Here(Noted):
        name = request.param
        started, settings, logged = [], [], []

    monkeypatch.setattr("understudy.recipes.track.find_spec", lambda name: object())
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(request.param)])
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, request.param, Here)
    yield Here


def test_a_service_goes_on_with_the_same_run(
    noted: type[Noted], bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after((7,), patch)
        run(bars, tmp_path, noted.name)
    run(bars, tmp_path, noted.name)
    assert len(noted.started) == 2 and noted.started[0] == noted.started[1]
    project, options = noted.started[0]
    assert (project, options["resume"]) == ("understudy", "allow")
    assert len(options["id" if noted.name == "wandb" else "name"]) == 8
    assert len(noted.settings) == 1 and noted.settings[0]["stage1/steps"] == 12
    # The row that was written and not told yet is of a step that was computed again.
    assert [step for step, _ in noted.logged] == list(range(1, 25))
    assert set(noted.logged[0][1]) == {f"stage1/{key}" for key in rows_of(tmp_path)[0]} - {
        "stage1/stage",
        "stage1/step",
    }


def test_a_tracker_that_is_not_there_is_told_before_anything_is_done(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.recipes.track.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--track wandb: it is not installed; run: pip install wandb$"):
        run(bars, tmp_path / "run", "wandb")
    assert not (tmp_path / "run").exists()


def test_a_run_may_be_tracked_from_anywhere_on(bars: Path, tmp_path: Path) -> None:
    run(bars, tmp_path, "none")
    assert not list(tmp_path.glob("tracked*"))
    run(bars, tmp_path, "tensorboard")  # not another run
    assert [row["step"] for row in rows_of(tmp_path)] == 2 * list(range(1, 13))


def test_settings_are_flat_and_of_plain_values() -> None:
    assert flat({"a": {"b": 1, "c": (1, 2)}, "d": None}) == {"a/b": 1, "a/c": "(1, 2)", "d": "None"}

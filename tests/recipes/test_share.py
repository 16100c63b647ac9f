"""A run's encoder is shared with a card that says of the data what the ledgers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import torch
import yaml

from understudy.models import VideoViT, load_encoder
from understudy.recipes.ledger import Ledger
from understudy.recipes.mixed import command_line, main
from understudy.recipes.share import Share, model_card, share
from understudy.shards.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("share")
    tiny_job.make_corpora(root)
    main(command_line([*tiny_job.arguments(root, root / "run"), "--stage1.steps=2", "--stage2.steps=2"]))
    return root / "run"


def test_the_folder_loads_and_its_card_says_what_was_counted(run: Path, tmp_path: Path) -> None:
    share(Share(run / "stage2", tmp_path / "shared", licence="cc-by-4.0", title="Two bars"))
    assert not list(tmp_path.glob(".*"))
    trained, config = load_encoder(run / "stage2")
    loaded = VideoViT.from_pretrained(tmp_path / "shared")
    assert loaded.config == config
    torch.testing.assert_close(loaded.state_dict(), trained.state_dict(), rtol=0, atol=0)
    card = (tmp_path / "shared" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    ledger = json.loads((run / "stage2" / "ledger.json").read_text())
    for name in tiny_job.CORPORA:
        row = next(line for line in card.splitlines() if line.startswith(f"| stage2 | {name} |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[3:7] == ["synthetic", "40", str(ledger["seen"].get(name, 0)), "0"]
        assert cells[8].strip("`") == ledger["corpora"][name]["digest"][:16]
    assert "80 videos of synthetic people" in card  # not 120: stage 1 saw one of the two corpora again
    assert "real people" not in card
    rows = {row["model"]: row for row in json.loads((run / "results.json").read_text())}
    assert f"| {100 * rows['PPMA']['top1']:.1f} |" in card


def test_real_people_are_said_aloud() -> None:
    from understudy.models.vit import DEMO

    about = {"kind": "real", "licence": "?", "samples": 1234, "digest": "0" * 64}
    card = model_card("x", "mit", DEMO, {"stage1": Ledger(corpora={"c": about}, seen={"c": 5})}, [])
    assert "**1,234 clips show real people.**" in card
    assert "None were measured" in card


def test_what_cannot_be_shared_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        share(Share(run / "stage2", tmp_path, licence="mit"))
    with pytest.raises(UserError, match="not a stage"):
        share(Share(run, tmp_path / "x", licence="mit"))
    with pytest.raises(UserError, match="has not finished"):
        share(Share(tmp_path / "stage2", tmp_path / "x", licence="mit"))
    assert not list(tmp_path.iterdir())

"""A run's encoder is shared with a card that says of the data what the ledgers say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_job  # pyright: ignore[reportMissingImports]
import torch
import yaml
from safetensors.torch import load_file

from understudy.models import MaskedAutoencoder, VideoClassifier, VideoViT, load_encoder
from understudy.models.align import SHARED, head_name
from understudy.models.mae import draw_masks
from understudy.models.whole import load_autoencoder, load_classifier
from understudy.recipes import share as share_module
from understudy.recipes import stages
from understudy.recipes.configs import MixedConfig
from understudy.recipes.mixed import command_line, main
from understudy.recipes.provenance import Provenance, provenance_of
from understudy.recipes.share import Share, model_card, share
from understudy.shards.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("share")
    tiny_job.make_corpora(root)
    main(config_of(root, root / "run"))
    return root / "run"


def config_of(root: Path, out: Path, *more: str) -> MixedConfig:
    return command_line([*tiny_job.arguments(root, out), "--stage1.steps=2", "--stage2.steps=2", *more])


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
    assert [stage["stage"] for stage in provenance_of(tmp_path / "shared").trained_on] == ["stage1", "stage2"]
    results = json.loads((run / "results.json").read_text())
    (row,) = (row for row in results["rows"] if row["model"] == "PPMA")
    assert f"| bars | linear | {100 * row['top1']:.1f} |" in card
    assert card.count("| linear |") == 1  # not that of scratch

    # Rows of transfer are of this encoder by its digest, whatever they call it.
    more = [{**row, "model": "x", "protocol": "finetune", "top1": 0.875}, {**row, "digest": "other", "top1": 0.999}]
    (tmp_path / "more.json").write_text(json.dumps({"rows": more}))
    share(Share(run / "stage2", tmp_path / "again", licence="mit", results=(tmp_path / "more.json",)))
    card = (tmp_path / "again" / "README.md").read_text()
    assert "| bars | fine-tuning | 87.5 |" in card and "99.9" not in card


def test_real_people_are_said_aloud() -> None:
    from understudy.models.vit import DEMO

    about = {"kind": "real", "licence": "?", "samples": 1234, "digest": "0" * 64}
    stage = {"stage": "stage1", "corpora": {"c": about}, "seen": {"c": 5}, "skipped": {}}
    card = model_card(Share(Path("x"), Path("y"), "mit"), DEMO, Provenance((stage,)), [])
    assert "**1,234 clips show real people.**" in card
    assert "None were measured" in card
    # Another corpus of that name, without people, in the next stage, or in its place from some step on.
    clean = {"kind": "no-human", "licence": "?", "samples": 40, "digest": "1" * 64}
    after = {"stage": "stage2", "corpora": {"c": clean}, "seen": {"c": 5}, "skipped": {}}
    replaced = {**after, "replaced": [{"source": "c", "until": 1234, **about}]}
    for trained_on in ((stage, after), (replaced,)):
        card = model_card(Share(Path("x"), Path("y"), "mit"), DEMO, Provenance(trained_on), [])
        assert "**1,234 clips show real people.**" in card and "40 videos from which people were removed" in card
    assert "| stage2 | c, until step 1,234 | real | 1,234 | as below |  | ? | `0000000000000000` |" in card


def test_what_cannot_be_shared_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        share(Share(run / "stage2", tmp_path, licence="mit"))
    with pytest.raises(UserError, match="not a stage"):
        share(Share(run, tmp_path / "x", licence="mit"))
    with pytest.raises(UserError, match="has not finished"):
        share(Share(tmp_path / "stage2", tmp_path / "x", licence="mit"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"no head for a corpus 'nowhere'; it has heads for bars, lines"):
        share(Share(run / "stage2", tmp_path / "x", licence="mit", what="classifier", corpus="nowhere"))
    with pytest.raises(UserError, match="was not aligned, name a stage2"):
        share(Share(run / "stage1", tmp_path / "x", licence="mit", what="classifier", corpus="bars"))
    with pytest.raises(UserError, match="has no decoder; name a stage1"):
        share(Share(run / "stage2", tmp_path / "x", licence="mit", what="autoencoder"))
    with pytest.raises(UserError, match="names the head of a classifier"):
        share(Share(run / "stage2", tmp_path / "x", licence="mit", corpus="bars"))


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    script = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, -1))\n"
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    )
    shared = tmp_path / "shared"
    arguments = [share_module.__file__, run / "stage2", shared, "--licence=mit"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    told = "share: no space left on the disk; make room and run the same command again"
    assert (done.returncode, done.stderr.splitlines()) == (1, [told])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("switches", [(), ("--shared-head", "--stage1.ema=0.5", "--stage2.ema=0.5")])
def test_decoder_and_heads_survive_the_stages(
    switches: tuple[str, ...], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Any] = {}
    train = stages.train_stage

    def keep(accelerator: Any, name: str, module: torch.nn.Module, *others: Any, **more: Any) -> Any:
        trained[name] = module
        return train(accelerator, name, module, *others, **more)

    monkeypatch.setattr(stages, "train_stage", keep)
    main(config_of(run.parent, tmp_path / "run", *switches))
    config = load_encoder(tmp_path / "run" / "stage1")[1]
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (3, 3, config.frames, config.size, config.size), generator=generator).byte()

    stage1 = tmp_path / "run" / "stage1"
    share(Share(stage1, tmp_path / "mae", licence="mit", what="autoencoder"))
    shared, kept = MaskedAutoencoder.from_pretrained(tmp_path / "mae"), load_autoencoder(stage1)
    masks, ok = draw_masks(3, config.grid, kept.config, generator), torch.ones(3, dtype=torch.bool)
    loss = shared.eval()(clips, *masks, ok)
    assert loss == kept(clips, *masks, ok)
    assert (loss == trained["stage1"].eval()(clips, *masks, ok)) == (not switches)  # the average is another model
    torch.testing.assert_close(kept.encoder.state_dict(), load_file(stage1 / "encoder.safetensors"), rtol=0, atol=0)

    stage2 = tmp_path / "run" / "stage2"
    for corpus in tiny_job.CORPORA:
        share(Share(stage2, tmp_path / corpus, licence="mit", what="classifier", corpus=corpus))
        classifier, (kept, classes) = (
            VideoClassifier.from_pretrained(tmp_path / corpus),
            load_classifier(stage2, corpus),
        )
        logits = classifier.eval()(clips)
        torch.testing.assert_close(logits, kept(clips), rtol=0, atol=0)
        assert json.loads((tmp_path / corpus / "classes.json").read_text()) == classes == list(tiny_job.CLASSES)
        aligner = trained["stage2"].eval()
        own = aligner.heads[SHARED if switches else head_name(corpus)](aligner.encoder(clips))
        assert torch.equal(logits, own) == (not switches)
        assert f"with its head for `{corpus}`" in (tmp_path / corpus / "README.md").read_text()

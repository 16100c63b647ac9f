"""`understudy audit` and `understudy card` from the command line, and `mixed.py --require-audit` in its corpora."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fake_readers import read_by_name

import understudy.cli.main
import understudy.privacy.audit as audit
from understudy.privacy.detect import Hit
from understudy.shards.errors import UserError
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source


@dataclass(frozen=True)
class Nobody:
    name: str = "nobody"
    what: str = "person"
    licence: str = "none"
    models: tuple[str, ...] = ("test/nobody",)

    def __call__(self, frames: np.ndarray) -> list[list[Hit]]:
        return [[] for _ in frames]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(audit, "load_detector", lambda name, **_: Nobody())
    monkeypatch.setattr(audit, "check_weights", lambda names: None)
    audit.load_detectors.cache_clear()
    yield
    audit.load_detectors.cache_clear()


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
    try:
        understudy.cli.main.main()
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1 if exit.code else 0
    return 0


@pytest.mark.usefixtures("nobody")
def test_audit_then_card(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    corpus, names = make_corpus(tmp_path / "c", 6), tmp_path / "names.txt"
    names.write_text("walk/0.mp4\n\nrun/1.mp4\n  \n")
    assert main(monkeypatch, "audit", corpus, "--workers", "0", "--names", names) == 0
    out = capsys.readouterr().out
    assert "no bound" in out and "beyond pixels: nothing found" in out and "audit.html" in out
    assert "2 of 2 names have less than 8 characters" in out
    assert main(monkeypatch, "card", corpus, "--creator", "A lab", "--date", "2026-01-31") == 0
    assert "Audited on 6 of 6 clips" in (corpus / "README.md").read_text()
    assert json.loads((corpus / "croissant.json").read_text())["datePublished"] == "2026-01-31"
    assert main(monkeypatch, "card", corpus) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(monkeypatch, "lint", corpus) == 0  # papers beside the shards are no finding
    assert "note:" not in capsys.readouterr().out
    assert main(monkeypatch, "audit", corpus, "--workers", "0") == 0  # nor are they to a second audit
    capsys.readouterr()
    for number in range(7):
        (corpus / f"jane{number}.mp4").write_text("x")
    assert main(monkeypatch, "lint", corpus) == 0
    assert "note: jane0.mp4, jane1.mp4, jane2.mp4 and 4 more: not part of the corpus" in capsys.readouterr().out
    assert main(monkeypatch, "audit", corpus, "--workers", "0") == 1
    told = capsys.readouterr()
    assert "jane4.mp4 and 2 more in" in told.err and "beyond pixels: other files, 7 times" in told.out


@pytest.mark.usefixtures("nobody")
def test_findings_beyond_pixels_give_status_1(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    corpus = make_corpus(tmp_path / "c", 3)
    (corpus / "refused.jsonl").write_text('{"path": "a/b.mp4", "reason": "no frames"}\n')
    assert main(monkeypatch, "audit", corpus, "--workers", "0") == 1
    assert "beyond pixels: source names" in capsys.readouterr().out


def test_what_is_not_for_publishing_is_told_before_anybody_looks(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    corpus = make_corpus(tmp_path / "c", 3)
    for name in ("refused.jsonl", "other-refused.jsonl"):
        (corpus / name).write_text('{"path": "a/b.mp4", "reason": "no frames"}\n')
    assert main(monkeypatch, "audit", corpus, "--workers", "0", "--detectors", "none-such") == 2
    told, failed, rest = capsys.readouterr().err.split("\n")
    assert f"other-refused.jsonl, refused.jsonl in {corpus} will be a finding" in told
    assert "none-such" in failed and not rest


@pytest.mark.usefixtures("nobody")
def test_a_corpus_with_refused_sources_is_fit_to_be_published_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sources = [Source(name, 0) for name in ("one", "two", "refuse three")]
    config = PackConfig("c", "no-human", ("a",), "CC0-1.0", b"sixteen bytes or more", short_side=48)
    manifest = pack(sources, read_by_name, tmp_path / "c", config, workers=0, progress=False)
    assert manifest.refused == 1 and "refuse three" in (tmp_path / "c-refused.jsonl").read_text()
    assert main(monkeypatch, "audit", tmp_path / "c", "--workers", "0", "--clips", "1") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--every", "0"], "every"),
        (["--tiles", "0"], "tiles"),
        (["--out", "nowhere"], "no such folder"),
        (["--canaries", "nowhere"], "canaries"),
    ],
)
@pytest.mark.usefixtures("nobody")
def test_what_users_can_mend_is_one_line(
    tmp_path: Path,
    make_corpus: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
):
    corpus = make_corpus(tmp_path / "c", 2)
    assert main(monkeypatch, "audit", corpus, "--workers", "0", *arguments) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert not (corpus / "audit.json").exists()


@pytest.mark.parametrize(("place", "says"), [("nosuch", "no such folder; name a corpus"), (".", "nor videos in it")])
def test_a_mistyped_or_empty_corpus_is_told_before_all_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    says: str,
):
    """Not that a folder of that name is to be made, nor that weights are missing."""
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS", str(tmp_path / "none"))
    audit.load_detectors.cache_clear()
    assert main(monkeypatch, "audit", tmp_path / place, "--workers", "0") == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_an_address_elsewhere_needs_a_folder_for_the_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for verb in ("audit", "card"):
        assert main(monkeypatch, verb, "s3://bucket/corpus") == 2
        assert "--out" in capsys.readouterr().err


def test_the_recipe_refuses_corpora_without_an_audit(tmp_path: Path, make_corpus: Callable[..., Path]):
    from understudy.recipes.configs import demo
    from understudy.recipes.start import open_corpora
    from understudy.shards.manifest import Manifest

    corpora = {name: make_corpus(tmp_path / name, 3, name=name) for name in ("mae", "syn", "probe")}
    manifest = Manifest.load(corpora["mae"])
    replace(manifest, kind="no-human").save(corpora["mae"])
    config = replace(
        demo(),
        mae_corpora=(str(corpora["mae"]),),
        align_corpora=(str(corpora["syn"]),),
        probe_train=str(corpora["probe"]),
        probe_val=str(corpora["probe"]),
    )
    assert open_corpora(config)["mae"]
    with pytest.raises(UserError, match=r"mae: no audit\.json"):
        open_corpora(replace(config, require_audit=0.001))
    assert open_corpora(replace(config, mae_corpora=(str(corpora["syn"]),), require_audit=0.001))["mae"]

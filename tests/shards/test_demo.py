"""The demo corpora: who is in them, that the same seed gives the same bytes, and that the ground truth is true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from understudy.shards.corpus import Corpus
from understudy.shards.demo import DEMO_CORPORA, demo_scene, demo_sources, make_demo, read_demo, render
from understudy.shards.errors import UserError
from understudy.shards.figure import PARTS
from understudy.shards.lint import lint
from understudy.shards.manifest import SAMPLES

NAMES = [corpus.name for corpus in DEMO_CORPORA]
CLASSES = {corpus.name: corpus.classes for corpus in DEMO_CORPORA}


def digest(corpus: str, index: int, seed: int = 0) -> str:
    source = demo_sources(corpus, index + 1)[index]
    return hashlib.sha256(b"".join(frame.tobytes() for frame in read_demo(source, seed=seed))).hexdigest()


def test_corpora_have_the_classes_that_the_experiment_needs():
    assert {corpus.name: corpus.kind for corpus in DEMO_CORPORA} == {
        "demo-nohuman": "no-human",
        "demo-synthetic": "synthetic",
        "demo-actions-train": "real",
        "demo-actions-val": "real",
    }
    assert len(set(CLASSES["demo-nohuman"])) >= 12
    assert len(set(CLASSES["demo-synthetic"])) >= 12
    assert len(set(CLASSES["demo-actions-val"])) >= 8
    assert CLASSES["demo-actions-train"] == CLASSES["demo-actions-val"]
    assert not set(CLASSES["demo-synthetic"]) & set(CLASSES["demo-actions-val"])


@pytest.mark.parametrize("corpus", NAMES)
def test_labels_are_balanced_and_a_longer_corpus_begins_with_a_shorter(corpus: str):
    sources = demo_sources(corpus, 100)
    counts = Counter(source.label for source in sources)
    assert set(counts) == set(range(len(CLASSES[corpus])))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({source.id for source in sources}) == 100
    assert demo_sources(corpus, 300)[:100] == sources


def test_unknown_corpus_is_told():
    with pytest.raises(UserError, match="demo-nohuman"):
        demo_sources("demo-humans", 1)


def test_a_clip_depends_on_seed_corpus_and_number_only():
    clips = [("demo-nohuman", 3), ("demo-synthetic", 9), ("demo-actions-train", 5), ("demo-actions-val", 5)]
    here = [digest(corpus, index) for corpus, index in clips]
    assert len(set(here)) == len(clips)
    assert digest("demo-synthetic", 9, seed=1) != here[1]
    # Another process, the other way round.
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_demo import digest\n"
    program += f"print(*[digest(*clip) for clip in {clips[::-1]!r}])"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert there[::-1] == here


@pytest.mark.parametrize("corpus", NAMES)
def test_clips_are_small_videos_in_which_something_moves(corpus: str):
    for source in demo_sources(corpus, len(CLASSES[corpus])):
        frames = np.stack(list(read_demo(source, seed=0)))
        assert frames.dtype == np.uint8 and frames.shape[1:] == (96, 128, 3)
        assert 20 <= len(frames) <= 28
        moved = np.abs(frames.astype(np.int16) - frames[0]).max(axis=(0, 3)) > 40
        assert moved.mean() > 0.01, CLASSES[corpus][source.label]


@pytest.mark.parametrize("corpus", NAMES[1:])
def test_ground_truth_masks_fit(corpus: str):
    for source in demo_sources(corpus, len(CLASSES[corpus])):
        clip = render(source, seed=1)
        different = (clip.frames != clip.empty).any(axis=3)
        assert not (different & ~clip.person).any()
        assert different.sum() > 0.85 * clip.person.sum()
        share = clip.person.mean(axis=(1, 2))
        assert share.min() > 0.02 and share.max() < 0.6
        assert {cone.part for cone in demo_scene(source, seed=1).person} == set(range(len(PARTS)))
    assert len(PARTS) >= 13


def test_nobody_is_in_the_corpus_without_people():
    for source in demo_sources("demo-nohuman", len(CLASSES["demo-nohuman"])):
        clip = render(source, seed=0)
        assert not clip.person.any()
        assert np.array_equal(clip.frames, clip.empty)
        assert not demo_scene(source, seed=0).person


def test_mean_colour_does_not_give_the_class_away():
    corpus = "demo-actions-train"
    classes = len(CLASSES[corpus])
    sources = demo_sources(corpus, 12 * classes)
    colour = np.stack([np.stack(list(read_demo(source, seed=0))).mean(axis=(0, 1, 2)) for source in sources])
    label = np.array([source.label for source in sources])
    fitted = np.arange(len(sources)) < 6 * classes
    centroids = np.stack([colour[fitted & (label == k)].mean(axis=0) for k in range(classes)])
    guess = np.linalg.norm(colour[~fitted, None] - centroids, axis=2).argmin(axis=1)
    assert (guess == label[~fitted]).mean() < 1 / classes + 0.13


def test_make_demo_packs_four_corpora_the_same_with_any_workers(tmp_path: Path):
    make_demo(tmp_path / "one", clips=20, seed=3, workers=0)
    make_demo(tmp_path / "two", clips=20, seed=3, workers=2)
    for name, count in zip(NAMES, (20, 20, 8, 8)):
        corpus = Corpus.open(tmp_path / "one" / name)
        assert len(corpus) == count
        assert corpus.manifest.fps == 8 and corpus.manifest.short_side == 96
        assert corpus.manifest.classes == CLASSES[name]
        assert not lint(tmp_path / "one" / name, progress=False).findings
        assert Corpus.open(tmp_path / "two" / name).manifest.digest == corpus.manifest.digest
        assert (tmp_path / "two" / name / SAMPLES).read_bytes() == (tmp_path / "one" / name / SAMPLES).read_bytes()


def test_make_demo_goes_on_where_it_was_and_refuses_a_foreign_folder(tmp_path: Path):
    make_demo(tmp_path, clips=8, seed=0, workers=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    make_demo(tmp_path, clips=8, seed=0, workers=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == before
    with pytest.raises(UserError):
        make_demo(tmp_path, clips=8, seed=1, workers=0)
    with pytest.raises(UserError, match="at least"):
        make_demo(tmp_path / "other", clips=0)
    with pytest.raises(UserError, match="seed"):
        make_demo(tmp_path / "other", clips=8, seed=-1)
    assert not (tmp_path / "other").exists()

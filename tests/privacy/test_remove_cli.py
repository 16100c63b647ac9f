"""The verbs: remove-people and pack by way of it or at once, from a folder to a corpus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted import of_person, painted  # pyright: ignore[reportMissingImports]

from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.frames import decode_frames
from understudy.shards.manifest import MEMBERS
from understudy.shards.tarshard import read_spans


def understudy(*words: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from understudy.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip, frames = painted("demo-synthetic", 0)
    (tmp_path / "videos/wave").mkdir(parents=True)
    (tmp_path / "masks/wave/one").mkdir(parents=True)
    (tmp_path / "videos/wave/one.mp4").write_bytes(encode(iter(frames), "h264", fps=8, quality=95).members["mp4"])
    for number, mask in enumerate(clip.person):
        cv2.imwrite(str(tmp_path / f"masks/wave/one/{number:06d}.png"), mask * np.uint8(255))
    (tmp_path / "secret").write_text("a secret for tests, long enough")
    return tmp_path


def packed_frames(root: Path) -> np.ndarray:
    corpus = Corpus.open(root)
    with corpus.shard_path(0).open("rb") as file:
        members = read_spans(file, [tuple(span) for span in corpus.spans[0].tolist()])
    payload = dict(zip([extension for extension in MEMBERS[corpus.manifest.codec] if extension != "json"], members))
    return np.stack(list(decode_frames(payload, corpus.manifest.codec, int(corpus.frames[0]))))


def test_both_ways_to_a_corpus(folder: Path) -> None:
    secret = ("--secret-file", folder / "secret", "--workers", "1")
    removal = ("masks", folder / "masks"), ("exact",), ("margin", "0.5"), ("no-belongings",), ("min-seen", "0")
    done = understudy(
        "remove-people", folder / "videos", folder / "out", *secret,
        *[word for name, *value in removal for word in (f"--{name}", *value)],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 kept, 0 dropped" in done.stdout
    assert "--gate" in done.stderr and done.stderr.count("\n") == 1, "nobody looks afterwards"
    settings = ("--kind", "no-human", "--short-side", "64", "--fps", "8", "--quality", "95", *secret)
    foreign = folder / "out/wave/mine.mp4"
    foreign.write_bytes((folder / "videos/wave/one.mp4").read_bytes())
    done = understudy("pack", folder / "out", folder / "two-steps", *settings)
    assert done.returncode == 2 and "mine.mp4 is not listed as kept" in done.stderr
    foreign.unlink()
    done = understudy("pack", folder / "out", folder / "two-steps", *settings)
    assert done.returncode == 0, done.stderr
    named = [f"--removal.{name}" if name != "no-belongings" else "--removal.no-belongings" for name, *_ in removal]
    values = [value for _, *value in removal]
    words = [word for name, value in zip(named, values) for word in (name, *value)]
    done = understudy("pack", folder / "videos", folder / "at-once", "--remove-people", *words, *settings)
    assert done.returncode == 0, done.stderr
    frames = [packed_frames(folder / name) for name in ("two-steps", "at-once")]
    assert frames[0].shape == frames[1].shape
    assert np.abs(frames[0].astype(int) - frames[1]).mean() < 3
    for each in frames:
        assert not of_person(each).any()


def test_a_class_of_which_no_clip_is_kept_keeps_its_label(folder: Path) -> None:
    (folder / "videos/jump").mkdir()  # comes first, and has no masks
    (folder / "videos/jump/two.mp4").write_bytes((folder / "videos/wave/one.mp4").read_bytes())
    secret = ("--secret-file", folder / "secret", "--workers", "0")
    removal = ("--masks", folder / "masks", "--exact", "--no-belongings", "--min-seen", "0")
    done = understudy("remove-people", folder / "videos", folder / "out", *removal, *secret)
    assert "1 kept, 0 dropped, 1 refused" in done.stdout, done.stderr
    settings = ("--kind", "no-human", "--short-side", "64", "--fps", "8", *secret)
    done = understudy("pack", folder / "out", folder / "corpus", *settings)
    assert done.returncode == 0, done.stderr
    corpus = Corpus.open(folder / "corpus")
    assert corpus.manifest.classes == ("jump", "wave") and corpus.label.tolist() == [1]
    (folder / "classes").write_text("wave\njump\n")
    done = understudy("pack", folder / "out", folder / "mine", "--classes", folder / "classes", *settings)
    assert done.returncode == 0 and Corpus.open(folder / "mine").manifest.classes == ("wave", "jump")


def test_frames_that_a_removal_left_out_are_not_made_up(folder: Path) -> None:
    secret = ("--secret-file", folder / "secret", "--workers", "0")
    removal = ("--masks", folder / "masks", "--exact", "--no-belongings", "--min-seen", "0", "--max-unsure", "1")
    done = understudy("remove-people", folder / "videos", folder / "out", "--fps", "4", *removal, *secret)
    assert "1 kept" in done.stdout, done.stderr
    settings = ("--kind", "no-human", "--short-side", "64", *secret)
    done = understudy("pack", folder / "out", folder / "corpus", *settings)  # at 6 by default
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pack with --fps 4" in done.stderr
    assert not (folder / "corpus").exists()
    done = understudy("pack", folder / "out", folder / "corpus", "--fps", "4", *settings)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--threshold", "2"), "share from 0 to 1"),
        (("--exact",), "--masks"),
        (("--filler", "nothing", "--masks", "."), "filler"),
        (("--masks", "nowhere"), "no such folder"),
        (("--masks", ".", "--sheets", "{videos}/sheets"), "lies inside"),
        (("--masks", ".", "--sheets", "{out}/sheets"), "lies inside"),
    ],
)
def test_mistakes_are_told_in_a_line(folder: Path, words: tuple[str, ...], says: str) -> None:
    words = tuple(word.format(videos=folder / "videos", out=folder / "out") for word in words)
    done = understudy("remove-people", folder / "videos", folder / "out", "--secret-file", folder / "secret", *words)
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_pack_refuses_to_remove_twice_or_into_another_kind(folder: Path) -> None:
    words = ("--remove-people", "--secret-file", folder / "secret")
    done = understudy("pack", folder / "videos", folder / "corpus", "--kind", "real", *words)
    assert done.returncode == 2 and "no-human" in done.stderr
    (folder / "videos/removal.json").write_text(json.dumps({"removal": {}, "counts": {}}))
    done = understudy("pack", folder / "videos", folder / "corpus", "--kind", "no-human", *words)
    assert done.returncode == 2 and "already" in done.stderr

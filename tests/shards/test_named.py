"""Corpora by name: a handful of videos in each published layout is found, counted, packed, and trains one step."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from make_videos import grey_frames, number_of, write_video  # pyright: ignore[reportMissingImports]

import understudy.cli.main
from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.models.classify import VideoClassifier
from understudy.models.vit import ViTConfig
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.frame_folders import frame_files, read_video_or_frames
from understudy.shards.named import NAMED, Layout, find_named, locate, stem_of
from understudy.shards.sources import RefusedError, Source
from understudy.shards.splits import UAV_TEST_PERSONS


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small video in each container that the data sets come in."""
    folder = tmp_path_factory.mktemp("movies")
    codecs = {".avi": "mpeg4", ".mp4": "libx264", ".MP4": "libx264", ".webm": "libvpx"}
    return {
        ending: write_video(folder / f"movie{ending}", grey_frames(12, 48, 32), rate=12, codec=codec)
        for ending, codec in codecs.items()
    }


def write_frames(folder: Path, count: int, name: str = "{:06d}.jpg") -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(grey_frames(count, 48, 32), 1):
        (folder / name.format(number)).write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95))


@dataclass(frozen=True)
class Case:
    """A data set as a user has it: what `lay_out` makes in a folder, the flags that name its list, and what to find."""

    layout: Layout
    flags: tuple[str, ...]
    labels: dict[str, int]
    groups: int


def ucf(root: Path, movies: dict[str, Path]) -> Case:
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 YoYo\r\n")
    names = [f"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c0{i}.avi" for i in (1, 2)] + ["YoYo/v_YoYo_g09_c01.avi"]
    (lists / "trainlist01.txt").write_text("".join(f"{n} {1 + n.startswith('YoYo')}\n" for n in names))
    (lists / "testlist01.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nYoYo/v_YoYo_g02_c01.avi\n")
    for name in [*names, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "YoYo/v_YoYo_g02_c01.avi"]:
        copy(movies[".avi"], root / "UCF-101" / name)
    return Case("ucf101", (), {name: int(name.startswith("YoYo")) for name in names}, 2)


def hmdb(root: Path, movies: dict[str, Path]) -> Case:
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    labels: dict[str, int] = {}
    for label, name in enumerate(("kick_ball", "wave")):
        videos = [(f"Pippi_(Michel)_{i}_{name}_f_cm_np1_le_med_{take}.avi", i) for i in (0, 1, 2) for take in (0, 1)]
        (lists / f"{name}_test_split1.txt").write_text("".join(f"{video} {use} \n" for video, use in videos))
        for video, use in videos:
            copy(movies[".avi"], root / "hmdb51_org" / name / video)
            if use == 1:
                labels[f"{name}/{video}"] = label
    return Case("hmdb51", (), labels, 1)


def diving(root: Path, movies: dict[str, Path]) -> Case:
    (root / "rgb").mkdir(parents=True)
    entries = [
        {"vid_name": f"{video}_0000{i}", "label": i, "start_frame": 0, "end_frame": 12}
        for video in ("-Bn3dmFqS0A", "_8Vy3dlHg2w")
        for i in (0, 1)
    ]
    (root / "Diving48_V2_train.json").write_text(json.dumps(entries))
    (root / "Diving48_V2_test.json").write_text("[]")
    (root / "Diving48_vocab.json").write_text(
        json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "NoTwis", "PIKE"]])
    )
    for entry in entries:
        copy(movies[".mp4"], root / "rgb" / f"{entry['vid_name']}.mp4")
    return Case("diving48", (), {str(entry["vid_name"]): int(str(entry["label"])) for entry in entries}, 2)


def uav(root: Path, movies: dict[str, Path]) -> Case:
    name = "P{:03d}S00G10B10H30UC022000LC021000A{:03d}R0_0824{:04d}.avi"
    train = {name.format(person, action, person): action for person in (0, 2) for action in (0, 154)}
    for video in [*train, name.format(1, 5, 1)]:
        copy(movies[".avi"], root / "Action_Videos" / video)
    return Case("uav-human", (), train, 2)


def ssv2(root: Path, movies: dict[str, Path]) -> Case:
    numbers = {"36585": 62, "116511": 86, "157360": 62}
    labels = {f"something2something-v2/videos/{number}.webm": label for number, label in numbers.items()}
    write_list(root / "lists" / "train.csv", "{};{}", labels)
    for path in labels:
        copy(movies[".webm"], root / "20bn-something-something-v2" / Path(path).name)
    return Case("mini-ssv2", ("--split-file", str(root / "lists" / "train.csv")), labels, 3)


def ikea(root: Path, movies: dict[str, Path]) -> Case:
    labels = {
        f"ikea_furniture/videos/{name}/GOPR01{take}_02570_02602_13.MP4": label
        for label, name in ((4, "detach_leg_1"), (7, "pick_leg"))
        for take in (15, 16)
    }
    write_list(root / "lists" / "train.csv", "{};{}", labels)
    for path in labels:
        copy(movies[".MP4"], root / "videos" / Path(path).parent.name / Path(path).name)
    return Case("ikea-fa", ("--split-file", str(root / "lists" / "train.csv")), labels, 2)


def kinetics(root: Path, movies: dict[str, Path]) -> Case:
    labels = {
        f"train/{name}/{video}_000008_000018.mp4": label
        for label, name in ((0, "peeling apples"), (149, "eating carrots"))
        for video in ("V7DUq0JJneY", "Z1CgCiqWLI4")
    }
    write_list(root / "lists" / "train.csv", "{};{}", labels)
    for path in labels:
        copy(movies[".mp4"], root / "kinetics" / path)
    return Case("kinetics150", ("--split-file", str(root / "lists" / "train.csv")), labels, 2)


def nohuman(root: Path, movies: dict[str, Path]) -> Case:
    """Human removal leaves the original frames, masks and inpainted frames side by side; the list has the last."""
    labels = {
        f"train/inp/{name}/V7DUq0JJneY_00000{label}_000018": label for label, name in ((2, "high kick"), (4, "lunge"))
    }
    write_list(root / "lists" / "train.csv", "{};{}", labels)
    for path in labels:
        write_frames(root / "k400" / path, 12)
        write_frames(root / "k400" / path.replace("inp", "ori"), 12)
    flags = ("--split-file", str(root / "lists" / "train.csv"), "--frame-rate", "12")
    return Case("nohuman-kinetics150", flags, labels, 1)


def synthetic(root: Path, movies: dict[str, Path]) -> Case:
    """ElderSim and SURREACT as frame folders and videos with dots in their names, listed as SynAPT does."""
    labels = {
        "/data/SimSet/temp7/handshaking/A046_P112_G017_C028": 61,
        "/data/SimSet/temp7/handshaking/A046_P112_G017_C007": 61,
        "/data/SimSet/temp8/a20/a20_d1_p051_c1_color.avi_v045_r00": 99,
    }
    write_list(root / "sim150_train.txt", "{};1;12;{}", labels)
    for path in list(labels)[:2]:
        write_frames(root / "sim" / "handshaking" / Path(path).name, 12, "frame{:05d}.jpg")
    copy(movies[".mp4"], root / "sim" / "a20" / "a20_d1_p051_c1_color.avi_v045_r00.mp4")
    flags = ("--split-file", str(root / "sim150_train.txt"), "--frame-rate", "12")
    return Case("synthetic150", flags, labels, 2)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write_list(path: Path, line: str, labels: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.format(video, label) for video, label in labels.items()))


LAY_OUT: list[Callable[[Path, dict[str, Path]], Case]] = [
    *(ucf, hmdb, diving, uav, ssv2, ikea, kinetics, nohuman, synthetic),
]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
    try:
        understudy.cli.main.main()
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1
    return 0


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "secret"
    path.write_text("a secret that is long enough")
    yield path


def test_every_named_data_set_is_tried() -> None:
    assert {lay_out.__name__ for lay_out in LAY_OUT} and len(LAY_OUT) == len(NAMED)


@pytest.mark.parametrize("lay_out", LAY_OUT, ids=lambda function: function.__name__)
def test_a_published_layout_packs_counts_and_trains_a_step(
    lay_out: Callable[[Path, dict[str, Path]], Case],
    movies: dict[str, Path],
    secret: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    case = lay_out(root, movies)
    named = NAMED[case.layout]
    common = ("--secret-file", secret, "--workers", "0", "--short-side", "32", "--split", "train")
    assert command(monkeypatch, "pack", root, out, "--layout", case.layout, *case.flags, *common) == 0
    told = capsys.readouterr()
    assert f"{len(case.labels)} samples" in told.out
    published = named.videos["train"]
    wanted = f"{published:,} were published" if published else "no published count"
    assert f"{case.layout} train: {len(case.labels)} videos listed" in told.err and wanted in told.err

    found = find_named(case.layout, "train", root, Path(case.flags[1]) if case.flags else None, None)
    assert {source.id: source.label for source in found.sources} == case.labels
    corpus = Corpus.open(out)
    assert corpus.manifest.kind == named.kind
    assert sorted(corpus.label.tolist()) == sorted(case.labels.values())
    assert len(set(corpus.group.tolist())) == case.groups
    text = (out / "manifest.json").read_text() + "".join(map(str, corpus.keys))
    assert [stem_of(path) for path in case.labels if stem_of(path) in text] == []

    clip = Clip(frames=2, stride=1, size=16)
    model = VideoClassifier(
        ViTConfig(frames=2, size=16, patch=8, width=16, depth=1, heads=1), len(corpus.manifest.classes)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ClipLoader([LoaderSource(corpus, 1.0)], clip, Views(), batch_size=2, seed=0, threads=1) as loader:
        batch = next(iter(loader))
        assert bool(batch.ok.all())
        before = model.head.weight.detach().clone()  # pyright: ignore[reportAttributeAccessIssue]
        torch.nn.functional.cross_entropy(model(batch.clips), batch.labels).backward()
        optimizer.step()
    assert not torch.equal(before, model.head.weight)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_other_split_is_the_other_one(movies: dict[str, Path], tmp_path: Path) -> None:
    for lay_out, expected in ((ucf, 2), (hmdb, 4), (uav, 1)):
        root = tmp_path / lay_out.__name__
        case = lay_out(root, movies)
        train, val = (find_named(case.layout, split, root, None, None).sources for split in ("train", "val"))
        assert len(val) == expected
        assert not {source.id for source in val} & {source.id for source in train}
        assert not {source.group for source in val} & {source.group for source in train}
    assert len(UAV_TEST_PERSONS) == 30  # of 119, so that 89 are trained on


def test_missing_videos_are_named_together_and_can_be_allowed(
    movies: dict[str, Path],
    secret: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    case = ikea(root, movies)
    listing = Path(case.flags[1])
    gone = [f"v/pick_leg/GOPR09{i:02d}_00001_00002_01.MP4" for i in range(12)]
    listing.write_text(listing.read_text() + "".join(f"\n{path};7" for path in gone))
    arguments = ("pack", root, out, "--layout", "ikea-fa", *case.flags, "--secret-file", secret, "--workers", "0")
    assert command(monkeypatch, *arguments) == 2
    told = capsys.readouterr()
    assert told.out.split() == gone
    assert "12 of 16 files are not in" in told.err and "--allow-missing" in told.err and not out.exists()
    assert command(monkeypatch, *arguments, "--allow-missing") == 0
    assert "4 samples" in capsys.readouterr().out
    refused = [json.loads(line) for line in Path(f"{out}-refused.jsonl").read_text().splitlines()]
    assert [entry["path"] for entry in refused] == gone
    assert Corpus.open(out).manifest.refused == 12


def test_lists_and_classes_that_disagree_are_refused(movies: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "ucf"
    ucf(root, movies)
    lists = root / "ucfTrainTestlist"
    good = (lists / "trainlist01.txt").read_text()
    for text, says in [
        ("YoYo/v_YoYo_g09_c01.avi 1\n", "class 1, but .* has YoYo as 2"),
        ("Yodel/v_Yodel_g09_c01.avi 3\n", "class 'Yodel' is not in"),
    ]:
        (lists / "trainlist01.txt").write_text(good + text)
        with pytest.raises(UserError, match=says):
            find_named("ucf101", "train", root, None, None)
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n3 YoYo\n")
    with pytest.raises(UserError, match="is not class 2"):
        find_named("ucf101", "train", root, None, None)

    listing = tmp_path / "list.csv"
    for text, says in [
        ("a/x.mp4;0\nb/y.mp4;0\n", "folders and labels must agree"),
        ("a/x.mp4;0\na/y.mp4;1\n", "folders and labels must agree"),
        ("a/x.mp4;12\n", "label 12, but the classes are 0 to 11"),
        ("a/x.mp4;1;2\n", "line 1: .* is neither path;label nor"),
        ("a/x.mp4;0\na/x.mp4;0\n", "listed twice, such as a/x.mp4"),
        ("", "an empty list|name its train list"),
    ]:
        listing.write_text(text)
        with pytest.raises(UserError, match=says):
            find_named("ikea-fa", "train", tmp_path, listing, None)
    listing.write_text("a/x.mp4;0\nb/y.mp4;1\n")
    with pytest.raises(UserError, match="class names and split file disagree"):
        find_named("ikea-fa", "train", tmp_path, listing, ("b", "a"))
    with pytest.raises(UserError, match="label 1, but there are 1 class names"):
        find_named("ikea-fa", "train", tmp_path, listing, ("a",))
    with pytest.raises(UserError, match="--split-file"):
        find_named("kinetics150", "train", tmp_path, None, None)


def test_frame_folders_ask_for_their_rate(
    movies: dict[str, Path],
    secret: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    case = nohuman(root, movies)
    flags = case.flags[:2]
    arguments = ("pack", root, out, "--layout", case.layout, *flags, "--secret-file", secret, "--workers", "0")
    assert command(monkeypatch, *arguments) == 2
    assert "2 videos are folders of frames, which have no rate; say it with --frame-rate" in capsys.readouterr().err
    # Folders of class folders take them too.
    inpainted = root / "k400" / "train" / "inp"
    plain = ("pack", inpainted, tmp_path / "plain", "--kind", "no-human", "--secret-file", secret, "--workers", "0")
    assert command(monkeypatch, *plain) == 2
    assert command(monkeypatch, *plain, "--frame-rate", "6", "--short-side", "32") == 0
    corpus = Corpus.open(tmp_path / "plain")
    assert (len(corpus), corpus.frames.tolist(), corpus.manifest.classes) == (2, [12, 12], ("high kick", "lunge"))


def test_frames_are_those_shown_at_the_packing_times(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip %03d", 25)
    source = Source("clip", 0, tmp_path / "clip %03d")
    for rate, expected in [(25, [0, 4, 8, 12, 16, 20]), (6, list(range(25))), (3, [i // 2 for i in range(50)])]:
        shown = list(read_video_or_frames(source, fps=6, short_side=32, source_fps=rate))
        assert [number_of(frame) for frame in shown] == expected[: len(shown)] and len(shown) >= len(expected)
    assert [path.name for path in frame_files(tmp_path / "clip %03d")][:2] == ["000001.jpg", "000002.jpg"]


def test_frame_folders_with_gaps_or_damage_are_refused(tmp_path: Path) -> None:
    def refusal(change: Callable[[Path], object]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_frames(folder, 12)
        change(folder)
        with pytest.raises(RefusedError) as caught:
            list(read_video_or_frames(Source("x", 0, folder), fps=6, short_side=32, source_fps=6))
        return str(caught.value)

    def cut(folder: Path) -> None:
        path = folder / "000005.jpg"
        path.write_bytes(path.read_bytes()[:-40])

    assert "frame 7 is missing" in refusal(lambda folder: (folder / "000007.jpg").unlink())
    assert "frame 5 is cut off" in refusal(cut)
    assert "other files" in refusal(lambda folder: (folder / "notes.txt").touch())
    assert "without a number" in refusal(lambda folder: (folder / "cover.jpg").touch())
    assert "two frames with the number 3" in refusal(lambda folder: (folder / "3.jpg").touch())
    assert "changes shape" in refusal(
        lambda folder: (folder / "000009.jpg").write_bytes(
            simplejpeg.encode_jpeg(np.zeros((32, 96, 3), np.uint8), quality=90)
        )
    )


def test_a_name_that_two_videos_have_is_told_by_its_folders(tmp_path: Path) -> None:
    for folder in ("a/inp/x", "a/ori/x", "b/inp/y"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "v.mp4").touch()
    found = locate(["/else/inp/x/v.avi", "gone.mp4", "inp/y/v"], tmp_path)
    assert found == [tmp_path / "a/inp/x/v.mp4", None, tmp_path / "b/inp/y/v.mp4"]
    with pytest.raises(UserError, match="could be"):
        locate(["v.avi"], tmp_path)


def test_a_picture_beside_videos_hides_none_of_them(tmp_path: Path) -> None:
    for folder in ("videos/a", "videos/b/frames"):
        (tmp_path / folder).mkdir(parents=True)
    places = [tmp_path / "videos" / "a" / f"{i}.mp4" for i in range(3)] + [tmp_path / "videos" / "b" / "frames"]
    for path in [*places[:3], places[3] / "0.jpg"]:
        path.touch()
    for folder in ("videos/a", "videos/b", ""):
        (tmp_path / folder / "cover.jpg").touch()
        assert locate(["0.mp4", "1.mp4", "2.mp4", "frames"], tmp_path) == places

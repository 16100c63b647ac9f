"""Packing: the same bytes whatever happens on the way, nothing published by halves, nothing that identifies."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import zstandard
from fake_readers import read_by_name, read_moving_bar, read_nothing, read_slowly

from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.frame_folders import read_video_or_frames
from understudy.shards.keys import load_secret, sample_key
from understudy.shards.kinds import Codec
from understudy.shards.lint import lint
from understudy.shards.pack import PackConfig, pack
from understudy.shards.plan import clear, locked, refused_list
from understudy.shards.sources import Source

HELPERS = Path(__file__).parents[1] / "helpers"
CONFIG = PackConfig("tiny", "real", ("walk", "run"), "CC0-1.0", secret=bytes(range(32)), samples_per_shard=4)


def sources(*names: str) -> list[Source]:
    return [Source(name, label=i % 2) for i, name in enumerate(names)]


TEN = sources(*(f"clip {i}" for i in range(10)))


def tree(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.iterdir()
    }


def refusals(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in refused_list(out).read_text().splitlines()]
    return {row["path"]: row["reason"] for row in rows}


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_the_bytes_depend_on_the_input_alone(tmp_path: Path, codec: Codec) -> None:
    config = replace(CONFIG, codec=codec)
    for run, (workers, order) in enumerate([(0, TEN), (1, TEN), (3, TEN[::-1])]):
        pack(order, read_by_name, tmp_path / str(run), config, workers=workers, progress=False)
    assert tree(tmp_path / "0") == tree(tmp_path / "1") == tree(tmp_path / "2")
    assert lint(tmp_path / "0", decode=True).findings == ()


def test_what_is_packed_is_what_was_read(tmp_path: Path) -> None:
    pack(TEN, read_by_name, tmp_path / "out", replace(CONFIG, quality=95), workers=0, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    assert [shard.nsamples for shard in corpus.manifest.shards] == [4, 4, 2]
    assert list(corpus.keys) == sorted(sample_key(CONFIG.secret, source.id) for source in TEN)
    by_key = {sample_key(CONFIG.secret, source.id): source for source in TEN}
    for i, key in enumerate(corpus.keys):
        source = by_key[key]
        assert corpus.label[i] == source.label
        data = corpus.shard_path(int(corpus.shard[i])).read_bytes()
        (at, size), (at_off, size_off) = corpus.spans[i].tolist()
        offsets = np.frombuffer(data[at_off : at_off + size_off], "<i8")
        frames = list(read_moving_bar(source))
        assert len(offsets) == len(frames) + 1 == corpus.frames[i] + 1 and offsets[-1] == size
        for frame, begin, end in zip(frames, offsets, offsets[1:]):
            decoded = simplejpeg.decode_jpeg(data[at + begin : at + end])
            assert np.abs(decoded.astype(int) - frame).mean() < 6


def test_samples_are_shuffled_across_the_corpus(tmp_path: Path) -> None:
    many = [Source(f"{label}/{i}", label) for label in (0, 1) for i in range(40)]
    config = replace(CONFIG, samples_per_shard=16)
    read = partial(read_moving_bar, frames=1, width=32, height=32)
    pack(many, read, tmp_path / "out", config, workers=0, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    for shard in range(5):
        assert 0 < corpus.label[corpus.shard == shard].mean() < 1


def test_killed_at_any_rename_and_run_again(tmp_path: Path) -> None:
    script = [sys.executable, str(HELPERS / "kill_at_every_rename.py"), str(tmp_path)]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    # A plan, then tar, index and record of 3 shards, then table, refusals, manifest, lock: before and after each.
    assert len(lines) == 2 * (1 + 3 * 3 + 4)
    assert {line.split(maxsplit=3)[3] for line in lines} == {"same"}
    # The manifest is the very last thing, but for the lock: without it there is no corpus.
    assert [line.split()[2] for line in lines] == ["partial"] * (len(lines) - 3) + ["complete"] * 3


def test_killed_with_its_workers_at_work(tmp_path: Path) -> None:
    pack(TEN, read_slowly, tmp_path / "whole", CONFIG, workers=0, progress=False)
    script = (
        f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n"
        "from pathlib import Path\n"
        "from fake_readers import read_slowly\n"
        "from understudy.shards.pack import PackConfig, pack\n"
        "from understudy.shards.sources import Source\n"
        f"out = Path({str(tmp_path / 'killed')!r})\n"
        "config = PackConfig('tiny', 'real', ('walk', 'run'), 'CC0-1.0', bytes(range(32)), samples_per_shard=4)\n"
        "sources = [Source(f'clip {i}', i % 2) for i in range(10)]\n"
        "pack(sources, read_slowly, out, config, workers=2, progress=False)\n"
    )
    record = tmp_path / "killed" / ".packing" / "tiny-000000.json"
    # It can't come to an end before it is killed: what is read once there is a shard hangs.
    slow = {**os.environ, "FAKE_READER_SECONDS": "0.5", "FAKE_READER_HANGS_AFTER": str(record)}
    with subprocess.Popen([sys.executable, "-c", script], env=slow) as packer:
        while not record.exists():
            assert packer.poll() is None
            time.sleep(0.005)
        packer.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    first = (tmp_path / "killed" / "tiny-000000.tar").stat()
    pack(TEN, read_slowly, tmp_path / "killed", CONFIG, workers=1, progress=False)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert (tmp_path / "killed" / "tiny-000000.tar").stat().st_ino == first.st_ino, "it was packed again"


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    odd = [Source(name, 0, tmp_path / name) for name in ("pipe", "link", "file")]
    pack(odd, read_moving_bar, tmp_path / "out", CONFIG, workers=1, progress=False)
    assert refusals(tmp_path / "out") == {"pipe": "not a file", "link": "not a file"}


def test_what_the_file_system_does_not_give_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(np.zeros((32, 48, 3), np.uint8)))
    shutil.copytree(folder, tmp_path / "whole")
    (folder / "1.jpg").unlink()
    (folder / "1.jpg").symlink_to(tmp_path / "nowhere.jpg")
    unreadable = tmp_path / ("x" * 300)  # root may read anything, but not this
    given = [Source(path.name[:6], 0, path) for path in (folder, tmp_path / "whole", unreadable)]
    read = partial(read_video_or_frames, fps=6, short_side=32, source_fps=6)
    pack(given, read, tmp_path / "out", CONFIG, workers=1, progress=False)
    assert refusals(tmp_path / "out") == {
        "frames": "frame 1 can't be read: No such file or directory",
        "xxxxxx": "it can't be read: File name too long",
    }


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOSPC, UserError), (errno.ENOENT, FileNotFoundError)])
def test_a_reader_that_lacks_something_else_stops_the_job(tmp_path: Path, number: int, raised: type[Exception]) -> None:
    def read(source: Source) -> Iterator[np.ndarray]:
        raise OSError(number, os.strerror(number), "weights")
        yield

    with pytest.raises(raised):
        pack(TEN, read, tmp_path / "out", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_bad_sources_cost_only_themselves(tmp_path: Path) -> None:
    names = [source.id for source in TEN]
    mixed = sources(*names[:3], "crash", *names[3:6], "hang", "refuse", "memory", *names[6:])
    manifest = pack(mixed, read_by_name, tmp_path / "out", CONFIG, workers=2, progress=False, patience_s=3)
    assert refusals(tmp_path / "out") == {
        "crash": "the decoder crashed",
        "hang": "the decoder hung",
        "memory": "the decoder ran out of memory",
        "refuse": "refused by name: refuse",
    }
    assert manifest.nsamples == 10 and manifest.refused == 4
    assert set(Corpus.open(tmp_path / "out").keys) == {sample_key(CONFIG.secret, name) for name in names}
    assert lint(tmp_path / "out").findings == ()


def test_a_programming_error_stops_the_job(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        pack(sources("a", "raise"), read_by_name, tmp_path / "out", CONFIG, workers=1, progress=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_shard_without_samples_is_left_out(tmp_path: Path) -> None:
    names = sorted((f"clip {i}" for i in range(6)), key=lambda name: sample_key(CONFIG.secret, name))
    config = replace(CONFIG, samples_per_shard=1)
    # Keys can't be chosen, so the middle one in key order is refused by a reader that knows it.
    read = partial(refuse_one, refused=names[2])
    manifest = pack(sources(*names), read, tmp_path / "out", config, workers=0, progress=False)
    assert [shard.url for shard in manifest.shards] == [f"tiny-{i:06d}.tar" for i in (0, 1, 3, 4, 5)]
    assert Corpus.open(tmp_path / "out").shard.tolist() == [0, 1, 2, 3, 4]
    assert lint(tmp_path / "out").findings == ()


def refuse_one(source: Source, refused: str) -> Iterator[np.ndarray]:
    return read_by_name(replace(source, id="refuse") if source.id == refused else source)


@pytest.mark.parametrize("read", [read_by_name, read_nothing])
def test_nothing_to_pack_leaves_nothing(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match="every source was refused"):
        pack(sources("refuse 1", "refuse 2"), read, tmp_path / "out", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no sources"):
        pack([], read, tmp_path / "out", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "out").exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing past `size` bytes of a file fails, as on a full disk."""
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, previous[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    pack(TEN, read_by_name, tmp_path / "whole", CONFIG, workers=0, progress=False)
    with pytest.raises(UserError, match="no space left"), file_size_limit(20_000):
        pack(TEN, read_by_name, tmp_path / "full", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "full" / "manifest.json").exists()
    assert not list((tmp_path / "full").glob(".*.tmp"))
    pack(TEN, read_by_name, tmp_path / "full", CONFIG, workers=0, progress=False)
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")


def test_an_unfinished_corpus_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"), file_size_limit(20_000):
        pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    again = partial(pack, out=tmp_path / "out", workers=0, progress=False)
    with pytest.raises(UserError, match=r"quality 85 then and 90 now"):
        again(TEN, read_by_name, config=replace(CONFIG, quality=90))
    with pytest.raises(UserError, match=r"other secret"):
        again(TEN, read_by_name, config=replace(CONFIG, secret=b"another" * 5))
    with pytest.raises(UserError, match=r"\(other sources\)"):
        again(TEN[1:], read_by_name, config=CONFIG)
    with pytest.raises(UserError, match=r"\(reader .*read_by_name then and .*frames=3\) now\)"):
        again(TEN, partial(read_moving_bar, frames=3), config=CONFIG)
    with pytest.raises(UserError, match=r"\(removal None then and {'tool': 't'} now\)"):
        again(TEN, read_by_name, config=replace(CONFIG, removal={"tool": "t"}))
    again(TEN, read_by_name, config=CONFIG)


def test_a_corpus_begun_with_people_removed_is_not_continued_without(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"), file_size_limit(20_000):
        removed = replace(CONFIG, removal={"tool": "t"})
        pack(TEN, read_by_name, tmp_path / "out", removed, workers=0, progress=False)
    with pytest.raises(UserError, match=r"\(removal {'tool': 't'} then and None now\)"):
        pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)


def test_a_finished_corpus_is_left_alone(tmp_path: Path) -> None:
    manifest = pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]}
    assert pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=2, progress=False) == manifest
    for others, config in [(TEN[1:], CONFIG), (TEN, replace(CONFIG, quality=90))]:
        with pytest.raises(UserError, match="finished corpus of other sources or settings"):
            pack(others, read_by_name, tmp_path / "out", config, workers=0, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]}


def test_two_packers_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(UserError, match="another packer is at work"):
        pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    with ExitStack() as next_one:
        with locked(tmp_path / "out") as work:
            clear(work)
            next_one.enter_context(locked(tmp_path / "out"))
        with pytest.raises(UserError, match="another packer is at work"):  # one that ends leaves it its lock
            pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is open when it is unlinked stays in its folder under another name, here for good."""
    unlink = os.unlink

    def unlink_closed(path: str | Path, *, dir_fd: int | None = None) -> None:
        about = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.path.samestat(descriptor.stat(), about):
                    hidden = Path(path).with_name(f".nfs{about.st_ino:016x}")
                    os.rename(path, hidden, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                    return
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink_closed)


@pytest.mark.usefixtures("nfs")
def test_nothing_of_the_packing_is_left_on_nfs(tmp_path: Path) -> None:
    manifest = pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "out" / ".packing").exists()
    (tmp_path / "out" / ".packing").mkdir()  # as after a kill at the very end
    assert pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False) == manifest
    assert lint(tmp_path / "out").findings == ()
    with pytest.raises(UserError, match="every source was refused"):
        pack(sources("refuse"), read_by_name, tmp_path / "nothing", CONFIG, workers=0, progress=False)
    assert not (tmp_path / "nothing").exists()


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    for name, says in [("file", "is a file"), ("folder", "holds other files")]:
        with pytest.raises(UserError, match=says):
            pack(TEN, read_by_name, tmp_path / name, CONFIG, workers=0, progress=False)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../escape"}, "name"),
        ({"name": "dot.ted"}, "name"),
        ({"kind": "humans"}, "no-human, synthetic, real"),
        ({"codec": "divx"}, "mjpeg, h264"),
        ({"fps": 0.0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"quality": 0}, "quality"),
        ({"short_side": 255}, "short side"),
        ({"samples_per_shard": 0}, "samples per shard"),
        ({"classes": ("walk", "walk")}, "same class name"),
        ({"classes": ("walk",)}, "clip 1: label 1 is out of range"),
        ({"classes": ("walk", os.fsdecode(b"caf\xe9"))}, r"class 'caf\\udce9': say it in UTF-8"),
        ({"licence": os.fsdecode(b"\xa9 me")}, r"licence '\\udca9 me': say it in UTF-8"),
    ],
)
def test_bad_settings_get_one_clear_line(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        pack(TEN, read_by_name, tmp_path / "out", replace(CONFIG, **change), workers=0, progress=False)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_source_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clip 3: listed 2 times"):
        pack([*TEN, TEN[3]], read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)


def test_nothing_in_a_corpus_tells_of_its_sources(tmp_path: Path) -> None:
    ids = [f"dQw4w9WgXcQ_{i:06d}.mp4" for i in range(6)]
    pack(sources(*ids, "refuse me"), read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    content += (
        zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "out/samples.jsonl.zst").read_bytes())
    )
    for telling in [b"dQw4w9WgXcQ", b"refuse me", str(tmp_path).encode(), CONFIG.secret, os.uname().nodename.encode()]:
        assert telling not in content
    assert stat.S_IMODE((tmp_path / "out-refused.jsonl").stat().st_mode) == 0o600
    assert "refused.jsonl" not in (tmp_path / "out" / "manifest.json").read_text()
    with tarfile.open(tmp_path / "out" / "tiny-000000.tar") as tar:
        member = next(member for member in tar if member.name.endswith(".json"))
        file = tar.extractfile(member)
        assert file and json.load(file).keys() == {"label", "frames", "fps", "size", "duration", "kind", "removal"}


def test_what_is_refused_is_listed_beside_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, listed = tmp_path / "out", tmp_path / "out-refused.jsonl"
    pack([*TEN, Source("refuse me", 0)], read_by_name, out, CONFIG, workers=0, progress=False)
    assert refusals(out) == {"refuse me": "refused by name: refuse me"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-refused.jsonl"]
    assert not list(out.rglob("*refused*"))
    shutil.rmtree(out)
    pack(TEN, read_by_name, out, CONFIG, workers=0, progress=False)
    assert not listed.exists(), "it was that of another corpus"
    monkeypatch.chdir(tmp_path)
    assert refused_list(Path("a/b")) == Path("a/b-refused.jsonl")
    assert refused_list(Path()) == tmp_path.with_name(f"{tmp_path.name}-refused.jsonl")


def test_a_place_beside_which_nothing_can_be_written_is_told_before_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match="list of refused videos can't be written there"):
        pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    assert not list((tmp_path / "out").glob("*.tar"))


def test_keys_hang_on_the_secret(tmp_path: Path) -> None:
    assert sample_key(b"x" * 32, "a") == sample_key(b"x" * 32, "a")
    assert len({sample_key(secret, name) for secret in (b"x" * 32, b"y" * 32) for name in ("a", "b")}) == 4
    assert len(sample_key(b"x" * 32, os.fsdecode(b"\xff\xfe.mp4"))) == 32


def test_the_secret_is_made_once_and_kept_close(tmp_path: Path) -> None:
    path = tmp_path / "config" / "understudy" / "secret"
    secret, created = load_secret(path)
    assert created and len(secret) >= 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_secret(path) == (secret, False)
    assert [file.name for file in path.parent.iterdir()] == ["secret"]
    path.write_bytes(b"short\n")
    with pytest.raises(UserError, match="5 bytes can be guessed"):
        load_secret(path)
    with pytest.raises(UserError, match="can't make a secret"):
        load_secret(path / "below a file")


def test_a_stock_webdataset_reader_reads_it(tmp_path: Path) -> None:
    import webdataset

    pack(TEN, read_by_name, tmp_path / "out", CONFIG, workers=0, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    urls = [str(corpus.shard_path(i)) for i in range(len(corpus.manifest.shards))]
    seen = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in seen] == list(corpus.keys)
    for i, sample in enumerate(seen):
        assert json.loads(sample["json"])["label"] == corpus.label[i]
        assert len(sample["mjpg"]) == np.frombuffer(sample["off"], "<i8")[-1] == corpus.spans[i, 0, 1]


def test_a_stock_dali_reader_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed on this machine")
    from nvidia.dali import fn, pipeline_def, types

    pack(TEN, read_by_name, tmp_path / "out", replace(CONFIG, quality=95), workers=0, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    shards = corpus.manifest.shards
    by_key = {sample_key(CONFIG.secret, source.id): source for source in TEN}
    frame = 7

    @pipeline_def(batch_size=len(TEN), num_threads=2, device_id=None)
    def pipeline():
        joined, offsets, about = fn.readers.webdataset(
            paths=[str(tmp_path / "out" / shard.url) for shard in shards],
            index_paths=[str(tmp_path / "out" / shard.index) for shard in shards],
            ext=["mjpg", "off", "json"],
        )
        offsets = fn.reinterpret(offsets, dtype=types.INT64)
        begin, end = (fn.slice(offsets, start=[i], end=[i + 1], axes=[0]) for i in (frame, frame + 1))
        jpeg = fn.slice(joined, begin, end - begin, axes=[0], normalized_anchor=False, normalized_shape=False)
        return fn.decoders.image(jpeg, device="cpu"), fn.decoders.video(joined, device="cpu"), about

    pipe = pipeline()
    pipe.build()
    images, videos, abouts = pipe.run()
    for i, key in enumerate(corpus.keys):
        assert json.loads(bytes(np.array(abouts[i])))["label"] == corpus.label[i]
        frames = list(read_moving_bar(by_key[key]))
        assert np.abs(np.array(images[i]).astype(int) - frames[frame]).mean() < 6
        video = np.array(videos[i])
        assert video.shape == np.stack(frames).shape
        assert np.abs(video.astype(int) - np.stack(frames)).mean() < 8

"""Nothing but pixels after packing, and the same checker finds something in every original: it is not blind."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePath

import av
import av.container
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from understudy.privacy.check import check_media
from understudy.privacy.check_pictures import check_jpeg
from understudy.privacy.check_shards import check_footage
from understudy.privacy.names import Linkable, Needles
from understudy.shards.beside import PAPERS
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.ingest import read_video
from understudy.shards.keys import sample_key
from understudy.shards.kinds import Codec
from understudy.shards.manifest import Manifest, encode_samples, read_samples
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source

SECRET = b"a secret for these tests only"
VIDEOS = Path(__file__).parents[3] / "shared" / "videos"
# What the tags and streams in the manifest beside the videos promise, and what the checker calls it.
PROMISED = (
    ("location", "location"), ("creation_time", "date"), ("creationdate", "date"), ("date-eng", "date"),
    ("timecode", "timecode"), ("apple.quicktime.make", "device"), ("apple.quicktime.model", "device"),
    ("firmware", "device"), ("title", "tags"), ("comment", "tags"),
)  # fmt: skip
# Too short at one frame a second, or of no use elsewhere, but enough to have all kinds of tracks and tags.
TELLING = (
    "torture/gopro_max-heromode_gpmf.mp4", "torture/mdx_with-gps.mov", "torture/media3_dolbyVision-hdr.MOV",
    "torture/media3_sample.mp4", "torture/media3_sample_with_srt.mkv", "torture/media3_sample_sef_slow_motion.mp4",
    "torture/streamio_file_with_data_streams.mp4", "torture/exiftool_RIFF.avi", "torture/mdx_100_0306.AVI",
    "torture/rails_rotated_hdr_video.mov", "torture/torchcodec_nasa_13013.mp4", "torture/media3_sample_scte35.ts",
    "torture/exiftool_MXF.mxf", "nohuman/intel_car.mp4", "action/R6llTwEh07w.mp4",
    "action/v_SoccerJuggling_g23_c01.avi",
)  # fmt: skip


def kinds(source: Path | bytes) -> set[str]:
    return {finding.what for finding in check_media(source)}


def rows() -> list[dict[str, str]]:
    if not (VIDEOS / "manifest.csv").is_file():
        return []
    with (VIDEOS / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_original_has_what_its_tags_promise(videos: Path):
    seen = 0
    for row in rows():
        if row["file"].startswith("synthetic/") or "unreadable" in (found := kinds(videos / row["file"])):
            continue
        tags = row["tags"].lower()
        promised = {what for part, what in PROMISED if part in tags}
        promised |= {"sound"} if row["audio"] else set()
        promised |= {"subtitles"} if "subtitle" in row["other_streams"] else set()
        promised |= {"data track"} if "data:" in row["other_streams"] else set()
        assert promised <= found, row["file"]
        seen += bool(promised)
    assert seen > 40


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_packed_originals_hold_nothing_but_pixels(videos: Path, tmp_path: Path, codec: Codec):
    sources = [Source(name, 0, videos / name) for name in TELLING]
    for source in sources:
        assert source.path and check_media(source.path), f"the checker is blind to {source.id}"
    config = PackConfig(
        name="packed", kind="real", classes=("a",), licence="unknown", secret=SECRET, codec=codec, fps=1, short_side=64
    )  # fmt: skip
    manifest = pack(
        sources, partial(read_video, fps=1, short_side=64), tmp_path / "c", config, workers=0, progress=False
    )
    assert manifest.nsamples >= len(sources) - 2, (tmp_path / "c-refused.jsonl").read_text()
    findings = check_footage(tmp_path / "c", Corpus.open(tmp_path / "c"), TELLING, progress=False)
    assert findings.rows() == []


def video(
    tmp_path: Path, edit: Callable[[av.container.OutputContainer], None] | None = None, name: str = "v.mp4"
) -> Path:
    path = tmp_path / name
    with av.open(str(path), "w", options={"fflags": "+bitexact", "movflags": "+use_metadata_tags"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(6))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if edit:
            edit(container)
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * number, np.uint8), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def own_mp4() -> bytes:
    frames = (np.full((48, 64, 3), 30 * number, np.uint8) for number in range(8))
    return encode(frames, "h264", fps=6, quality=85).members["mp4"]


def test_our_own_video_is_clean_and_each_addition_is_seen(tmp_path: Path):
    clean = own_mp4()
    assert check_media(clean) == []
    assert kinds(clean + b"SEFT and what a phone's maker wrote") >= {"trailing bytes"}
    assert kinds(clean + b"\0\0\0\x20uuid" + bytes(range(24))) == {"box"}
    assert kinds(clean + b"\0\0\0\x10free12345678") == {"hidden bytes"}
    assert kinds(clean + b"\0\0\0\x10free\0\0\0\0\0\0\0\0") == set()
    at = clean.index(b"mvhd") + 8
    assert kinds(clean[:at] + b"\xe0\x01\x02\x03" + clean[at + 4 :]) >= {"date"}
    assert "user data (SEI)" in kinds(video(tmp_path))  # x264 signs what nobody filters

    def tagged(container: av.container.OutputContainer) -> None:
        container.metadata.update({"com.apple.quicktime.location.ISO6709": "+48.8584+002.2945/", "title": "My flat"})

    assert kinds(video(tmp_path, tagged)) >= {"location", "tags"}


def box(kind: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def with_box(data: bytes, path: tuple[bytes, ...], added: bytes, skip: int = 0) -> bytes:
    """An MP4 with bytes added at the end of the box that `path` leads to, below `skip` bytes of fields."""
    position = skip
    while position < len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind == path[0]:
            content = data[position + 8 : position + size]
            fields = {b"stsd": 8, b"avc1": 78}.get(kind, 0)
            inner = content + added if len(path) == 1 else with_box(content, path[1:], added, fields)
            return data[:position] + box(kind, inner) + data[position + size :]
        position += size
    raise AssertionError(f"no box {path[0]!r}")


TRACK = (b"moov", b"trak")
TABLES = (*TRACK, b"mdia", b"minf", b"stbl")


@pytest.mark.parametrize(
    "path",
    [
        (b"moov",), TRACK, (*TRACK, b"mdia"), (*TRACK, b"mdia", b"minf"), (*TRACK, b"mdia", b"minf", b"dinf"), TABLES,
        (*TABLES, b"stsd", b"avc1"),
    ],
)  # fmt: skip
def test_boxes_inside_the_index_that_no_video_needs_are_seen(path: tuple[bytes, ...]):
    words = b"lat 52.5 lon 13.4 Jane"
    clean = own_mp4()
    for kind in (b"free", b"skip", b"GPS ", b"uuid", b"ABCD"):
        assert kinds(with_box(clean, path, box(kind, words))) & {"box", "hidden bytes"}, kind
    if path[-1] != b"avc1":
        assert "hidden bytes" in kinds(with_box(clean, path, b"\xffJane"))
        assert kinds(with_box(clean, path, box(b"free", bytes(8)))).isdisjoint({"box", "hidden bytes"})


def test_words_in_an_empty_list_or_in_front_of_a_video_are_seen():
    clean, words = own_mp4(), b"lat 52.5 lon 13.4 Jane"
    assert "tags" in kinds(with_box(clean, (b"moov",), box(b"meta", bytes(4) + box(b"free", words))))
    handler = box(b"hdlr", bytes(24) + words)
    assert "tags" in kinds(with_box(clean, (b"moov",), box(b"meta", bytes(4) + handler)))
    assert "box" in kinds(box(b"uuid", bytes(16) + words) + clean)
    dref = clean.index(b"url ")
    assert "box" in kinds(clean[:dref] + b"alis" + clean[dref + 4 :])


def coded(codec: str, container: str, pixels: str, **options: str) -> bytes:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(codec, rate=Fraction(6))
        stream.width, stream.height, stream.pix_fmt = 128, 128, pixels
        stream.codec_context.options = options
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((128, 128, 3), 30 * number, np.uint8), "rgb24")
            output.mux(stream.encode(frame.reformat(format=pixels)))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_messages_beside_the_parameter_sets_of_hevc_are_seen():
    """x265 signs itself there, and nowhere else."""
    made = coded("libx265", "mp4", "yuv420p", **{"x265-params": "log-level=none"})
    assert b"x265" in made and kinds(made) == {"user data (SEI)"}
    at = made.index(b"x265")
    sei = made.rindex(b"\x4e\x01\x05", 0, at)  # kind 39, in an array of that kind
    assert kinds(made[:sei] + b"\x46" + made[sei + 1 :]) == set()


def test_comments_in_the_pictures_of_a_video_are_seen():
    made = coded("mjpeg", "avi", "yuvj420p")
    assert b"\xff\xfe" in made and kinds(made) == {"comment"}
    assert kinds(coded("mjpeg", "avi", "yuvj420p", flags="+bitexact")) == set()


def test_captions_inside_the_video_are_seen(tmp_path: Path):
    """A53 captions are an SEI message between the pictures: ITU-T T.35, country 0xB5, provider 0x31, then GA94."""
    payload = b"\xb5\x00\x31GA94\x03\xc1\xff\xfc\x94\x20\xff"
    sei = b"\x06\x04" + bytes([len(payload)]) + payload + b"\x80"
    plain, path = tmp_path / "plain.h264", video(tmp_path)
    with av.open(str(path)) as container, plain.open("wb") as file:
        stream = container.streams.video[0]
        annexb = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            for part in annexb.filter(packet if packet.size else None):
                file.write(b"\0\0\0\1" + sei + bytes(part))
    assert "captions" in kinds(plain)
    assert "captions" not in kinds(path)


def test_chapters_are_seen(tmp_path: Path):
    path = video(tmp_path, name="v.mkv")
    with av.open(str(path)) as source, av.open(str(tmp_path / "w.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        container.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 1000,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "At the doctor's"},
                }
            ]
        )
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    assert "chapters" in kinds(tmp_path / "w.mkv")


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_segments_of_a_jpeg_that_hold_no_picture():
    plain = jpeg()
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    assert list(check_jpeg(plain)) == []
    assert {f.what for f in check_jpeg(jpeg(exif=exif))} == {"EXIF"}
    assert {f.what for f in check_jpeg(jpeg(comment=b"for my mother"))} == {"comment"}
    assert {f.what for f in check_jpeg(plain + b"more")} == {"trailing bytes"}
    # After the scan, where a parser that stops at the picture does not look.
    hidden = plain[:-2] + b"\xff\xfe\x00\x09by name" + plain[-2:]
    assert {f.what for f in check_jpeg(hidden)} == {"comment"}
    thumbnail = plain[:4] + plain[4:].replace(b"JFIF\0", b"JFXX\0", 1)
    assert check_media(thumbnail) != []


def picture(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_chunks_of_png_and_webp_that_hold_no_picture():
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010E] = "Jane"
    text.add_text("Author", "Jane")
    assert check_media(picture("PNG")) == check_media(picture("WEBP")) == []
    assert check_media(picture("WEBP", lossless=True)) == []
    assert kinds(picture("PNG", pnginfo=text, exif=exif)) == {"comment", "EXIF"}
    assert kinds(picture("WEBP", exif=exif, xmp=b"<x>Jane</x>")) == {"EXIF", "XMP"}
    for kind in ("PNG", "WEBP"):
        assert kinds(picture(kind) + b"Jane") == {"trailing bytes"}


NAME = "v_SoccerJuggling_g23_c01.avi"


def found_in_tar(folder: Path, members: dict[str, bytes], after: bytes = b"", link: str = "") -> dict[str, str]:
    with tarfile.open(folder / "s.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo("0" * 32 + ".mp4")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    with (folder / "s.tar").open("ab") as file:
        file.write(after)
    return {row["what"]: row["example"] for row in check_footage(folder, None, [NAME], progress=False).rows()}


def test_in_a_shard_only_what_is_known_passes(tmp_path: Path):
    key, clean = "0" * 32, {"0" * 32 + ".mp4": own_mp4(), "0" * 32 + ".json": b'{"label": 0}'}
    assert found_in_tar(tmp_path, clean) == {}
    for extension in ("xml", "cls", "aac", "jsonl", "pyd", "Jane.mp4"):
        assert set(found_in_tar(tmp_path, {**clean, f"{key}.{extension}": own_mp4()})) == {"tar member"}, extension
    assert "source names" in found_in_tar(tmp_path, {f"{key}.v_SoccerJuggling_g23_c01.mp4": own_mp4()})
    assert set(found_in_tar(tmp_path, clean, after=b"Jane" * 3000)) == {"trailing bytes"}
    assert set(found_in_tar(tmp_path, clean, after=NAME.encode())) == {"trailing bytes", "source names"}
    assert found_in_tar(tmp_path, clean, after=bytes(10240)) == {}
    assert "tar member" in found_in_tar(tmp_path, clean, link="/home/jane/v.mp4")


def mjpeg(*offsets: int) -> dict[str, bytes]:
    return {"0" * 32 + ".mjpg": jpeg() + jpeg(), "0" * 32 + ".off": np.array(offsets, "<i8").tobytes()}


SIZE = len(jpeg())


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (mjpeg(0, SIZE, 2 * SIZE), set()),
        (mjpeg(), {"tar member"}),
        (mjpeg(0), {"tar member"}),
        (mjpeg(0, SIZE), {"tar member"}),
        (mjpeg(-SIZE, SIZE, 2 * SIZE), {"tar member"}),
        (mjpeg(0, 2**62, 2 * SIZE), {"tar member"}),
        (mjpeg(0, SIZE, 2 * SIZE) | {"0" * 32 + ".off": b"odd"}, {"tar member"}),
        ({"0" * 32 + ".mjpg": jpeg()}, {"tar member"}),
        ({"0" * 32 + ".MJPG": jpeg(), "0" * 32 + ".off": bytes(8)}, {"tar member"}),
        *[
            ({"0" * 32 + ".json": text}, {"sidecar"})
            for text in (
                *(b"[]", b"7", b"null", b'"label"', b"\xff", b"", b"[" * 10**5, b'{"removal":' * 10**4),
                *(b'{"removal": "x"}', b'{"removal": []}', b'{"removal": 0}', b'{"removal": {"models": "x"}}'),
                *(b'{"removal": {"models": [["x"]]}}', b'{"removal": {"models": {"a": 1}}}'),
            )
        ],
        ({"0" * 32 + ".json": b'{"removal": "/home/jane/v.mp4"}'}, {"sidecar", "source names"}),
        ({"0" * 32 + ".json": b'{"removal": {"models": ["a/b"], "gate": ["c/d"]}}'}, set()),
        ({"0" * 32 + ".json": b'{"removal": null}'}, set()),
    ],
)
def test_what_is_no_sample_of_ours_is_found(tmp_path: Path, members: dict[str, bytes], told: set[str]):
    assert set(found_in_tar(tmp_path, members)) == told


BYTES = st.binary(max_size=40)
MEMBERS = st.dictionaries(
    st.sampled_from(["json", "mjpg", "off", "mp4", "jpg", "png", "webp", "gif", "x.mjpg", "OFF"]).map(
        lambda extension: "0" * 32 + "." + extension
    ),
    st.one_of(
        BYTES,
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40), max_size=4).map(
            lambda offsets: np.array(offsets, "<i8").tobytes()
        ),
        st.sampled_from(
            [b"{", b'{"removal":', b"[", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n"]
        ).flatmap(lambda start: BYTES.map(lambda rest: start + rest)),
        st.tuples(
            st.integers(0, 40),
            st.sampled_from([b"ftyp", b"moov", b"mvhd", b"trak", b"mdia", b"tkhd", b"udta", b"meta", b"stsd", b"free"]),
            BYTES,
        ).map(lambda box: b"\0\0\0\x08ftyp" + box[0].to_bytes(4, "big") + box[1] + box[2]),
    ),
    max_size=4,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=MEMBERS)
def test_whatever_is_in_a_shard_the_check_comes_to_an_end(tmp_path: Path, members: dict[str, bytes]):
    found_in_tar(tmp_path, members)


def test_boxes_without_content_or_nested_without_end_are_looked_into():
    assert check_media(box(b"ftyp") + box(b"moov", box(b"mvhd"))) is not None
    nested = b""
    for _ in range(5000):
        nested = box(b"moov", nested)
    assert "box" in kinds(box(b"ftyp") + nested)


@pytest.mark.parametrize("time", [float("inf"), float("nan"), -1.5])
def test_a_time_that_is_none_is_found(tmp_path: Path, time: float):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0" * 32 + ".json")
        member.size, member.pax_headers = 2, {"mtime": str(time)}
        archive.addfile(member, io.BytesIO(b"{}"))
    assert "tar time" in {row["what"] for row in check_footage(tmp_path, None, [], progress=False).rows()}


def test_a_name_is_found_wherever_the_pieces_that_are_read_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("understudy.privacy.check_shards.PIECE", 64)
    for shift in range(64):
        assert "source names" in found_in_tar(tmp_path, {"0" * 32 + ".json": b" " * shift + NAME.encode()})


def test_the_sample_table_and_what_lies_beside_the_shards(tmp_path: Path, make_corpus: Callable[..., Path]):
    root = make_corpus(tmp_path / "c", 3)

    def found() -> set[str]:
        corpus = Corpus.open(root)
        return {row["what"] for row in check_footage(root, corpus, [NAME], progress=False).rows()}

    assert found() == set()
    for name, what in (("audit.html", "frames"), ("c-audit.html", "frames"), ("removal.jsonl", "source names")):
        (root / name).write_text("x")
        assert found() == {what}
        (root / name).unlink()
    (root / ".holes").mkdir()
    assert found() == {"frames"}
    (root / ".holes").rmdir()
    for name in ("originals/walk/jane.mp4", "jane.tar", "NOTES", "deep/refused.jsonl"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text("x")
        assert found() == {"other files"}, name
        (root / name).unlink()
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals/jane.mp4").write_text("x")
    (root / "linked").symlink_to(tmp_path / "originals")
    assert found() == {"other files"}
    (root / "linked").unlink()
    for name in (*PAPERS, "audit.json", "removal.json"):  # nor an empty list, as packers of old left it
        (root / name).write_text("{}")
    (root / "refused.jsonl").touch()
    assert found() == set()
    (root / "clips.csv").write_text(f"key,{NAME}\n")
    assert found() == {"source names"}
    (root / "clips.csv").unlink()
    samples = [replace(sample, group="g23") for sample in read_samples((root / "samples.jsonl.zst").read_bytes())]
    data = encode_samples(samples)
    (root / "samples.jsonl.zst").write_bytes(data)
    manifest = Manifest.load(root)
    digest = hashlib.sha256(data).hexdigest()
    replace(manifest, samples_sha256=digest, samples_filesize=len(data)).save(root)
    assert found() == {"telling group"}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=8, max_size=20)


@given(st.lists(TEXT | st.sampled_from(["aaaaaaaaab", "aaaaaaaaabc", "aaaaaaaaa.mp4"]), max_size=8), st.data())
def test_all_names_are_found_in_one_pass(names: list[str], data: st.DataObject):
    """As by looking for one after the other, wherever they lie and however they overlap."""
    pieces = st.sampled_from([*map(os.fsencode, names), b"aaaaaaaa"]) | st.binary(max_size=12)
    text = b"".join(data.draw(st.lists(pieces, max_size=8)))
    parts = {part for name in names if name.strip() for part in (PurePath(name).name, PurePath(name).stem)}
    sought = {os.fsencode(part) for part in parts if len(part) >= 8}
    assert Needles(names).found_in(text) == sorted(needle for needle in sought if needle in text)


def test_names_that_were_not_sought_are_told_and_empty_lines_are_no_names(
    tmp_path: Path, make_corpus: Callable[..., Path]
):
    root = make_corpus(tmp_path / "c", 3)  # rows without a group
    found = check_footage(root, Corpus.open(root), ["", "a/0.mp4", "clip1.mp4", "long enough.mp4", " "], progress=False)
    assert found.rows() == [] and found.names_too_short == 2


def test_keys_that_anyone_could_make_are_found(tmp_path: Path, make_corpus: Callable[..., Path]):
    names = ["walk/dQw4w9WgXcQ.mp4", "run/v_Juggling_g01_c02.avi"]
    keys = Linkable(names)
    for text in (names[0], "dQw4w9WgXcQ.mp4", "dQw4w9WgXcQ"):
        raw = text.encode()
        assert keys.how(text) == f"the name {text!r}" and keys.how(f"{zlib.crc32(raw):08x}") == f"the CRC of {text!r}"
        for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
            digest = hashlib.new(algorithm, raw).hexdigest()
            assert {keys.how(digest[:digits]) for digits in (None, 32, 16)} == {f"the plain {algorithm} of {text!r}"}
            assert keys.how(digest[:31]) is keys.how(digest[:15] + "g") is None
        for secret in (b"", b"secret", b"understudy", b"demo keys hide nothing"):
            digest = hmac.new(secret, raw, hashlib.sha256).hexdigest()
            assert "keyed with a secret that is known" in (keys.how(digest[:32]) or "")
        assert keys.how(sample_key(SECRET, text)) is None
    assert {keys.how(key) for key in ("-abcdef", "-" * 16, "0x" + "1" * 14, "1" * 8, "é", "F" * 32)} == {None}
    assert keys.how("") is None and Linkable(["", " "]).how("") is None
    # The same in a shard, beside a name in clear text in the pixels' own bytes.
    member = tarfile.TarInfo(hashlib.sha256(b"dQw4w9WgXcQ").hexdigest()[:32] + ".jpg")
    data = jpeg(comment=b"from v_Juggling_g01_c02")
    member.size = len(data)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(member, io.BytesIO(data))
    rows = {row["what"]: row["example"] for row in check_footage(tmp_path, None, names, progress=False).rows()}
    assert {"linkable key", "source names", "comment"} == set(rows) and "sha256" in rows["linkable key"]
    clean = make_corpus(tmp_path / "ours", 6)
    assert check_footage(clean, Corpus.open(clean), [f"walk/{i}.mp4" for i in range(6)], progress=False).rows() == []

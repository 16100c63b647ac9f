"""What users point the packer at: folders with every kind of name, and lists with every kind of mistake."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.shards.collect import collect, parse_list, read_classes
from understudy.shards.errors import UserError

ODD_NAMES = [
    "-dash.mp4",
    "--help",
    "it's.mov",
    'quo"te.mp4',
    "a b  c.mp4",
    "semi;colon.mp4",
    "new\nline.mp4",
    "ü🎬.mkv",
    "none",
]
ODD_NAMES += [os.fsdecode(b"not-\xff-utf8.avi")]


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def collected(
    source: Path, *, root: Path | None = None, classes: Path | None = None
) -> tuple[dict[str, int], tuple[str, ...]]:
    sources, names = collect(source, source.parent / "out", root=root, classes_file=classes)
    assert all(entry.path is not None and entry.path.is_file() for entry in sources)
    return {entry.id: entry.label for entry in sources}, names


def error_of(source: Path, **options: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        collected(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "v/walk/b.mp4", "v/walk/deep/er/a.mp4", "v/run/a.mp4", "v/Jump/a.mp4", "v/loose.mp4")
    fill(tmp_path, "v/walk/.hidden.mp4", "v/.cache/a.mp4", "v/walk/.thumbs/a.mp4", "v/walk/notes.txt")
    sources, classes = collected(tmp_path / "v")
    assert classes == ("Jump", "run", "walk")
    assert sources == {"Jump/a.mp4": 0, "run/a.mp4": 1, "walk/b.mp4": 2, "walk/deep/er/a.mp4": 2, "walk/notes.txt": 2}


def test_odd_names_in_folders(tmp_path: Path) -> None:
    fill(tmp_path / "v", *(f"-class of 'its' own/{name}" for name in ODD_NAMES))
    sources, classes = collected(tmp_path / "v")
    assert classes == ("-class of 'its' own",)
    assert sorted(sources) == sorted(f"-class of 'its' own/{name}" for name in ODD_NAMES)


def test_an_empty_class_folder_is_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "v/walk/a.mp4")
    (tmp_path / "v" / "run").mkdir()
    assert collected(tmp_path / "v") == ({"walk/a.mp4": 1}, ("run", "walk"))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/a.mp4", "v/run/b.mp4")
    (tmp_path / "v" / "walk").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "v" / "run" / "c.mp4").symlink_to(tmp_path / "elsewhere" / "a.mp4")
    sources, _ = collected(tmp_path / "v")
    assert sources == {"run/b.mp4": 0, "run/c.mp4": 0, "walk/a.mp4": 1}


def test_given_classes_set_the_order(tmp_path: Path) -> None:
    fill(tmp_path, "v/walk/a.mp4", "v/run/a.mp4")
    (tmp_path / "classes.txt").write_text("walk\njump\nrun\n")
    assert collected(tmp_path / "v", classes=tmp_path / "classes.txt") == (
        {"run/a.mp4": 2, "walk/a.mp4": 0},
        ("walk", "jump", "run"),
    )
    (tmp_path / "classes.txt").write_text("walk\njump")
    assert "class folder 'run' is not among" in error_of(tmp_path / "v", classes=tmp_path / "classes.txt")


def test_folders_that_can_not_be_packed(tmp_path: Path) -> None:
    assert "no such file or folder" in error_of(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no class folders" in error_of(tmp_path / "empty")
    fill(tmp_path, "flat/a.mp4")
    assert "no class folders" in error_of(tmp_path / "flat")
    (tmp_path / "hollow" / "walk").mkdir(parents=True)
    assert "no files in its 1 class folders" in error_of(tmp_path / "hollow")
    fill(tmp_path, os.fsdecode(b"latin/caf\xe9/a.mp4"))
    assert "is not UTF-8" in error_of(tmp_path / "latin")
    fill(tmp_path, "v/walk/a.mp4")
    assert "--root is for list files" in error_of(tmp_path / "v", root=tmp_path)
    with pytest.raises(UserError, match="lies inside"):
        collect(tmp_path / "v", tmp_path / "v" / "out", root=None, classes_file=None)


def test_a_list(tmp_path: Path) -> None:
    fill(tmp_path, "v/a.mp4", "v/semi;colon.mp4", "v/-dash.mp4")
    (tmp_path / "v" / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4;0\r\nsemi;colon.mp4;2\n\n./-dash.mp4; 1")
    sources = {"a.mp4": 0, "semi;colon.mp4": 2, "-dash.mp4": 1}
    assert collected(tmp_path / "v" / "list.txt") == (sources, ("0", "1", "2"))
    (tmp_path / "list.txt").write_bytes((tmp_path / "v" / "list.txt").read_bytes())
    (tmp_path / "classes").write_text("x\ny\nz\nunused\n")
    assert collected(tmp_path / "list.txt", root=tmp_path / "v", classes=tmp_path / "classes") == (
        sources,
        ("x", "y", "z", "unused"),
    )


def test_missing_files_are_named_together(tmp_path: Path) -> None:
    fill(tmp_path, "here.mp4")
    names = [f"gone-{i}.mp4" for i in range(25)]
    (tmp_path / "list.txt").write_text("".join(f"{name};0\n" for name in ["here.mp4", *names]))
    message = error_of(tmp_path / "list.txt")
    assert "25 of 26 files" in message and "gone-9.mp4, ..." in message and "gone-10" not in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"b.mp4", "not of the form path;label"),
        (b";1", "not of the form path;label"),
        (b"b.mp4;", "not of the form path;label"),
        (b"b.mp4;walk", "'walk' is not a whole number"),
        (b"b.mp4;-1", "'-1' is not a whole number"),
        (b"b.mp4;1.0", "'1.0' is not a whole number"),
        ("b.mp4;٣".encode(), "is not a whole number"),
        (b"b.mp4;2", "label 2 is out of range, the classes are 0 to 1"),
        (b"x/../a.mp4;0", "the same file as in line 1"),
    ],
)
def test_a_bad_line_is_named(line: bytes, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        parse_list(b"a.mp4;0\n\n" + line + b"\n", "list.txt", classes=2)
    assert str(caught.value).startswith("list.txt, line 3: ")


def test_lists_without_anything() -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf\r\n"):
        with pytest.raises(UserError, match="an empty list"):
            parse_list(data, "list.txt", classes=None)


def test_a_stray_label_does_not_make_a_million_classes() -> None:
    with pytest.raises(UserError, match=r"line 1: label 999999999 is out of range.*--classes"):
        parse_list(b"a.mp4;999999999\n", "list.txt", classes=None)


path_bytes = st.binary(min_size=1).filter(
    lambda path: not {b"\n", b"\r", b"\0"} & {path[i : i + 1] for i in range(len(path))}
)
plain_paths = path_bytes.filter(lambda path: path.strip() and os.path.normpath(path) == path)


@given(st.dictionaries(plain_paths, st.integers(0, 999), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_any_list_comes_back(rows: dict[bytes, int], windows: bool, last_newline: bool) -> None:
    ending = b"\r\n" if windows else b"\n"
    text = ending.join(path + b";%d" % label for path, label in rows.items()) + ending * last_newline
    if text.startswith(b"\xef\xbb\xbf"):
        return
    assert parse_list(text, "list", classes=1000) == [(os.fsdecode(path), label) for path, label in rows.items()]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_a_clear_error(data: bytes) -> None:
    try:
        rows = parse_list(data, "list", classes=10)
    except UserError as error:
        assert re.match(r"list(, line \d+)?: .", str(error)) and "\n" not in str(error)
    else:
        assert rows and all(path and 0 <= label < 10 for path, label in rows)


def test_class_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\ufeffwalk\r\n  run \r\n\r\n", encoding="utf-8")
    assert read_classes(path) == ("walk", "run")
    for content, says in [
        (b"walk\nwalk\n", "line 2: the same name again"),
        (b"walk\n\nrun\n", "line 2: empty"),
        (b"\n", "no class names"),
        (b"caf\xe9\n", "not UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_classes(path)
    with pytest.raises(UserError, match="No such file"):
        read_classes(tmp_path / "nowhere")

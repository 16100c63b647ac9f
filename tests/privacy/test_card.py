"""The papers of a corpus: they say what manifest, record and audit say, no more, and their formats are sound."""

from __future__ import annotations

import ast
import csv
import fnmatch
import hashlib
import importlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import understudy.privacy.reasons
from understudy.privacy.card import check_unwritten, dataset_card, datasheet, gather
from understudy.privacy.card_croissant import CONTEXT, TABLE, clip_table, croissant
from understudy.privacy.reasons import KNOWN
from understudy.shards.audited import save_audit
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.manifest import Manifest
from understudy.shards.plan import refused_list
from understudy.shards.tarshard import read_spans

AUDIT: dict[str, Any] = {
    "confidence": 0.95,
    "looked_at": {"clips": 7, "of_clips": 9, "frames": 84, "recordings": 5},
    "detectors": [{"name": "mtcnn"}],
    "frames": {"bound": 0.0123, "found_per_1000": 1.5},
    "clips": {"bound": 0.25, "found": 0.1},
    "canaries": {"whole": {}, "small": {}},
    "leaks": {"action": {"accuracy": 0.4, "low": 0.3, "high": 0.5, "chance": 0.25}, "attribute": None},
    "findings": [],
}
REMOVAL = {
    "tool": "understudy", "version": "1", "segmenter": "mediapipe", "licence": "Apache-2.0", "filler": "background",
    "models": ["mediapipe/pose.tflite"],
}  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    return make_corpus(tmp_path / "c", 9, samples_per_shard=4)


def front_matter(card: str) -> dict[str, Any]:
    """The block of `key: value` and lists that YAML front matter is here."""
    head = card.split("---\n")[1]
    fields: dict[str, Any] = {}
    last = ""
    for line in head.splitlines():
        if line.startswith("- "):
            fields.setdefault(last, []).append(line[2:])
        else:
            last, _, value = line.partition(":")
            if value:
                fields[last] = value.strip()
    return fields


def test_a_card_without_an_audit_says_so(corpus: Path):
    facts = gather(corpus)
    card = dataset_card(facts)
    fields = front_matter(card)
    assert fields["pretty_name"] == '"tiny"' and fields["license"] == "cc0-1.0"
    assert fields["task_categories"] == ["video-classification"] and fields["size_categories"] == ["n<1K"]
    assert "Not audited" in card and facts.manifest.digest in card and "| walk | 3 |" in card
    assert "walk/0" not in card and "virtual" in card


def test_what_audit_and_removal_say_is_in_the_papers(corpus: Path):
    manifest = Manifest.load(corpus)
    save_audit(corpus, {**AUDIT, "digest": manifest.digest})
    refused_list(corpus).write_text('{"path": "home/me/secret.mp4", "reason": "no frames"}\n' * 2)
    facts = replace(gather(corpus), manifest=replace(manifest, kind="no-human"), removal=REMOVAL)
    for paper in (dataset_card(facts), datasheet(facts)):
        assert (
            "at most 12.30 of 1,000 frames and 250.0 of 1,000 clips" in paper
            and "its 5 recordings are" in paper
            and "whole, small" in paper
            and "40.0%" in paper
        )
        assert "segmenter `mediapipe`" in paper and "`mediapipe/pose.tflite`" in paper
        assert "secret.mp4" not in paper and "no guarantee" in paper
    # Neither a bound on clips where frames were left out, nor silence about clips that may hang together.
    sampled = {**AUDIT, "clips": {"bound": None, "found": 0.1}, "looked_at": {**AUDIT["looked_at"], "recordings": 7}}
    card = dataset_card(replace(facts, audit=sampled))
    assert "12.30 of 1,000 frames show somebody" in card and "nobody knows the recordings" in card
    assert "- 2 x no frames" in datasheet(facts) and "To be filled in" in datasheet(facts)
    headings = [line for line in datasheet(facts).splitlines() if line.startswith("## ")]
    assert len(headings) == 7  # those of Gebru et al.
    assert "its group: a keyed hash that clips of one recording" in datasheet(facts)


def test_reasons_in_the_papers_name_no_file(corpus: Path):
    reasons = (
        "frame 5 is cut off",
        "frame 6 is cut off",
        "unsure on 61 of 101 frames",
        "the segmenter was unsure on 61 of 101 frames",
        "no mask for John Smith at /home/ann lee smith/v.mp4",
        "jane_007.jpg is cut off",
        "no key 'Jane'",
        "cannot be decoded: Jane's own error",
        "removing its people failed: ValueError: Jane",
    )
    expected = {
        "frame # is cut off": 2,
        "the segmenter was unsure on # of # frames": 1,
        "cannot be decoded": 1,
        "removing its people failed": 1,
        "another reason": 4,
    }
    for place in (corpus / "refused.jsonl", refused_list(corpus)):  # where it lay, and where it is
        place.write_text("\n".join(json.dumps({"path": "x", "reason": reason}) for reason in reasons))
        assert gather(corpus).refused == expected
        place.unlink()


def test_every_reason_of_ours_may_be_published():
    """All that the source has of them, whatever numbers and names are put in."""
    root = Path(understudy.privacy.reasons.__file__).parents[1]
    told = set[str]()
    for path in [*(root / "shards").glob("*.py"), *(root / "privacy").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("RefusedError", "Lost"):
                told.update(map(_pattern, node.args))
            elif isinstance(node, ast.FunctionDef) and node.name == "why_dropped":
                told.update(_pattern(part.value) for part in ast.walk(node) if isinstance(part, ast.Return))
    told.discard("")
    assert len(told) > 25
    for text in told:
        assert fnmatch.filter(KNOWN, text.partition(":")[0]), text


def _pattern(value: ast.AST | None) -> str:
    """A string in the source with * for what is put in; empty for anything else."""
    if isinstance(value, ast.IfExp):
        return _pattern(value.body)
    if isinstance(value, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "*" for part in value.values)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def test_an_audit_of_another_corpus_is_not_passed_on(corpus: Path):
    save_audit(corpus, {**AUDIT, "digest": "0" * 64})
    with pytest.raises(UserError, match="another digest"):
        gather(corpus)


def made_croissant(root: Path) -> dict[str, Any]:
    """With the table that goes with it, written into the corpus."""
    table = clip_table(Corpus.open(root))
    (root / TABLE).write_bytes(table)
    return croissant(gather(root), table, url="https://example.org/tiny", creator="A lab", date="2026-01-31")


def test_croissant_names_every_file_with_its_digest(corpus: Path):
    facts = gather(corpus)
    body = made_croissant(corpus)
    files = {entry["@id"]: entry for entry in body["distribution"] if entry["@type"] == "cr:FileObject"}
    assert {shard.url: shard.sha256 for shard in facts.manifest.shards}.items() <= {
        name: entry["sha256"] for name, entry in files.items()
    }.items()
    # What Croissant 1.0 requires of a dataset, a file and a field.
    assert {
        "@context",
        "@type",
        "conformsTo",
        "name",
        "description",
        "license",
        "url",
        "creator",
        "datePublished",
    } <= set(body)
    for entry in files.values():
        assert {"name", "contentUrl", "encodingFormat", "sha256"} <= set(entry)
    assert files[TABLE]["sha256"] == hashlib.sha256((corpus / TABLE).read_bytes()).hexdigest()
    fields = [field for record_set in body["recordSet"] for field in record_set["field"]]
    known = {entry["@id"] for entry in (*body["distribution"], *fields)}
    for field in fields:
        source = next(value for name, value in field["source"].items() if name in ("fileObject", "fileSet", "field"))
        assert source["@id"] in known and field["dataType"].startswith("sc:")
    # Every word used is one that the context explains, or of schema.org.
    plain = {"name", "description", "url", "license", "creator", "datePublished", "version", "distribution",
             "contentUrl", "contentSize", "encodingFormat", "sha256", "containedIn"}  # fmt: skip

    def words(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {word for inner in value.values() for word in words(inner)}
        return {word for inner in value for word in words(inner)} if isinstance(value, list) else set()

    used = words({key: value for key, value in body.items() if key != "@context"})
    assert {word for word in used if not word.startswith(("@", "rai:"))} <= plain | set(CONTEXT)


def test_the_table_of_clips_says_what_the_sidecars_say(tmp_path: Path, make_corpus: Callable[..., Path]):
    corpus = make_corpus(tmp_path / "c", 9, samples_per_shard=4, frames=13)
    rows = list(csv.DictReader(io.StringIO(clip_table(Corpus.open(corpus)).decode())))
    sidecars: dict[str, dict[str, Any]] = {}
    for path in sorted(corpus.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    content = archive.extractfile(member)
                    assert content
                    sidecars[member.name.removesuffix(".json")] = json.load(content)
    assert len(rows) == len(sidecars) == 9
    for row in rows:
        told = sidecars[row["key"]]
        assert (int(row["label"]), int(row["frames"]), float(row["duration"])) == (
            told["label"], told["frames"], told["duration"]
        )  # fmt: skip
        assert [int(row["width"]), int(row["height"])] == told["size"]


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_croissant_is_valid_to_its_own_reader_which_gets_clips_and_labels(
    tmp_path: Path, make_corpus: Callable[..., Path], codec: str, monkeypatch: pytest.MonkeyPatch
):
    mlcroissant = pytest.importorskip("mlcroissant", reason='pip install -e ".[cards]"')
    extracted = importlib.import_module("mlcroissant._src.operation_graph.operations.extract")
    monkeypatch.setattr(extracted, "EXTRACT_PATH", extracted.EXTRACT_PATH.__class__(tmp_path / "cache"))
    root = make_corpus(tmp_path / "c", 9, samples_per_shard=4, codec=codec)
    (root / "croissant.json").write_text(json.dumps(made_croissant(root)))
    dataset = mlcroissant.Dataset(jsonld=str(root / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
    corpus = Corpus.open(root)
    labels = dict(zip(corpus.keys, corpus.label.tolist()))
    table = {row["clips/key"].decode(): row["clips/label"] for row in dataset.records("clips")}
    videos = {row["videos/key"].decode(): row for row in dataset.records("videos")}
    assert table == labels == {key: row["videos/label"] for key, row in videos.items()}
    for number, key in enumerate(corpus.keys):
        with corpus.shard_path(int(corpus.shard[number])).open("rb") as file:
            (payload,) = read_spans(file, corpus.spans[number][:1].tolist())
        assert videos[key]["videos/content"] == payload


def test_papers_that_somebody_filled_in_are_not_written_over(tmp_path: Path):
    check_unwritten(tmp_path, False, ("README.md",))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        check_unwritten(tmp_path, False, ("README.md",))
    check_unwritten(tmp_path, True, ("README.md",))

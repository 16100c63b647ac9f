"""The papers of a corpus: they say what manifest, record and audit say, no more, and their formats are sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.privacy.card import check_unwritten, dataset_card, datasheet, gather
from understudy.privacy.card_croissant import CONTEXT, croissant
from understudy.shards.audited import save_audit
from understudy.shards.errors import UserError
from understudy.shards.manifest import Manifest

AUDIT: dict[str, Any] = {
    "confidence": 0.95,
    "looked_at": {"clips": 7, "of_clips": 9, "frames": 84},
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
    (corpus / "refused.jsonl").write_text('{"path": "home/me/secret.mp4", "reason": "no frames"}\n' * 2)
    facts = replace(gather(corpus), manifest=replace(manifest, kind="no-human"), removal=REMOVAL)
    for paper in (dataset_card(facts), datasheet(facts)):
        assert "at most 12.30 of 1,000 frames" in paper and "whole, small" in paper and "40.0%" in paper
        assert "segmenter `mediapipe`" in paper and "`mediapipe/pose.tflite`" in paper
        assert "secret.mp4" not in paper and "no guarantee" in paper
    assert "- 2 x no frames" in datasheet(facts) and "To be filled in" in datasheet(facts)
    headings = [line for line in datasheet(facts).splitlines() if line.startswith("## ")]
    assert len(headings) == 7  # those of Gebru et al.


def test_an_audit_of_another_corpus_is_not_passed_on(corpus: Path):
    save_audit(corpus, {**AUDIT, "digest": "0" * 64})
    with pytest.raises(UserError, match="another digest"):
        gather(corpus)


def test_croissant_names_every_file_with_its_digest(corpus: Path):
    facts = gather(corpus)
    body = croissant(facts, url="https://example.org/tiny", creator="A lab", date="2026-01-31")
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
    known = {entry["@id"] for entry in body["distribution"]}
    for field in body["recordSet"][0]["field"]:
        assert field["source"]["fileSet"]["@id"] in known and field["dataType"].startswith("sc:")
    # Every word used is one that the context explains, or of schema.org.
    plain = {"name", "description", "url", "license", "creator", "datePublished", "version", "distribution",
             "contentUrl", "contentSize", "encodingFormat", "sha256", "containedIn"}  # fmt: skip

    def words(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {word for inner in value.values() for word in words(inner)}
        return {word for inner in value for word in words(inner)} if isinstance(value, list) else set()

    used = words({key: value for key, value in body.items() if key != "@context"})
    assert {word for word in used if not word.startswith(("@", "rai:"))} <= plain | set(CONTEXT)


def test_croissant_is_valid_to_its_own_checker(corpus: Path):
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install understudy[cards]")
    body = croissant(gather(corpus), url="https://example.org/tiny", creator="A lab", date="2026-01-31")
    (corpus / "croissant.json").write_text(json.dumps(body))
    dataset = mlcroissant.Dataset(jsonld=str(corpus / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings


def test_papers_that_somebody_filled_in_are_not_written_over(tmp_path: Path):
    check_unwritten(tmp_path, False, ("README.md",))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        check_unwritten(tmp_path, False, ("README.md",))
    check_unwritten(tmp_path, True, ("README.md",))

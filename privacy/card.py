"""The papers of a corpus, made from its manifest, removal record, list of refusals and audit: dataset card, datasheet.

`croissant.json` is in `card_croissant.py`. Nothing here knows a source's name, and what software cannot know is left
for the publisher to fill in, marked as such.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from understudy.privacy.leak import BY_OUTLINES
from understudy.privacy.reasons import nameless
from understudy.shards.audited import load_audit
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import read_address
from understudy.shards.manifest import REFUSED, Manifest
from understudy.shards.plan import refused_list
from understudy.shards.remote import Address, MissingError
from understudy.shards.tarshard import read_entries, read_spans

TO_FILL_IN = "**To be filled in by the publisher.**"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_KINDS = {
    "no-human": "real videos without people, or out of which they were removed",
    "synthetic": "generated videos of virtual people",
    "real": "real videos that show real people",
}


@dataclass(frozen=True)
class Facts:
    """All that is known of a corpus: `removal` is its removal record, `refused` counts reasons without names; `audit`
    and `removal` are None where there is none.
    """

    manifest: Manifest
    audit: Mapping[str, Any] | None
    removal: Mapping[str, Any] | None
    refused: Mapping[str, int]


def gather(root: Address) -> Facts:
    """Read the papers' facts at `root`. Raises UserError without a corpus, or with an audit that is of another one."""
    manifest = Manifest.load(root)
    audit: Mapping[str, Any] | None = None
    with suppress(MissingError):
        audit = load_audit(root, manifest.digest)
    return Facts(manifest, audit, _removal(Corpus.open(root)), _refused(root))


def _refused(root: Address) -> Mapping[str, int]:
    """Reasons, from the list beside the corpus, or in it, as packers of old left it."""
    for place in ((refused_list(root),) if isinstance(root, Path) else ()) + (root / REFUSED,):
        with suppress(FileNotFoundError, MissingError):
            return Counter(nameless(str(json.loads(line)["reason"])) for line in read_address(place).splitlines())
    return {}


def _removal(corpus: Corpus) -> Mapping[str, Any] | None:
    """The record of the first sample: a corpus is made in one go, so that it is that of all."""
    with os.fdopen(corpus.open_shard(0), "rb") as file:
        first = next(entry for entry in read_entries(file) if entry.extension == "json")
        (text,) = read_spans(file, [(first.offset, first.size)])
    return cast("dict[str, Any]", json.loads(text))["removal"]


def dataset_card(facts: Facts) -> str:
    """README.md: YAML front matter as the Hugging Face hub reads it, then what a user has to know."""
    manifest = facts.manifest
    classes = [f"| {name} | {count:,} |" for name, count in zip(manifest.classes, manifest.per_class)]
    return "\n".join(
        [
            "---",
            f"pretty_name: {json.dumps(manifest.name)}",
            f"license: {_hub_licence(manifest.licence)}",
            *([f"license_name: {json.dumps(manifest.licence)}"] if _hub_licence(manifest.licence) == "other" else []),
            "task_categories:",
            "- video-classification",
            f"size_categories:\n- {size_category(manifest.nsamples)}",
            f"tags:\n- video\n- webdataset\n- {manifest.kind}",
            # Else the hub may take the JSON and CSV files for the data.
            'configs:\n- config_name: default\n  data_files: "*.tar"',
            "---",
            "",
            f"# {manifest.name}",
            "",
            f"{manifest.nsamples:,} clips of {len(manifest.classes)} classes, {manifest.frames:,} frames at "
            f"{manifest.fps:g} a second, short side {manifest.short_side}: {_KINDS[manifest.kind]}. "
            f"Packed by {manifest.tool} {manifest.tool_version} as WebDataset shards of codec `{manifest.codec}`.",
            "",
            "## People",
            "",
            *removal_lines(facts),
            "",
            *audit_lines(facts),
            "",
            "## Reading it",
            "",
            "With Understudy: `Corpus.open(PATH)`, or name the folder to a recipe. The shards are plain tars that the "
            "webdataset library and DALI read too; `manifest.json` is a wids-v1 index.",
            "",
            f"Digest of the manifest: `{manifest.digest}`.",
            "",
            "## Classes",
            "",
            "| class | clips |",
            "|---|---:|",
            *classes,
            "",
        ]
    )


def size_category(samples: int) -> str:
    """The hub's name for a number of samples."""
    return next((name for limit, name in _SIZES if samples < limit), "n>1M")


def _hub_licence(licence: str) -> str:
    """The hub's id of a licence: SPDX ids in lower case, `unknown`, or `other`."""
    simple = licence.lower().replace(" ", "-")
    known = ("cc0-1.0", "cc-by-", "apache-2.0", "mit", "bsd-", "odc-by", "pddl", "unknown")
    return simple if simple.startswith(known) else "other"


def removal_lines(facts: Facts) -> list[str]:
    """How people were removed, as far as there is a record."""
    if facts.manifest.kind == "synthetic":
        return ["The people in these videos are virtual; none was removed."]
    if facts.removal is None:
        return ["There is no record of how people were removed, or whether they were."]
    record = facts.removal
    weights = ", ".join(f"`{name}`" for name in record.get("models", ())) or "none"
    lines = [
        f"People were removed with {record.get('tool', 'unknown')} {record.get('version', '')}: segmenter "
        f"`{record.get('segmenter', 'unknown')}` ({record.get('licence', 'licence unknown')}), filler "
        f"`{record.get('filler', 'unknown')}`, weights {weights}."
    ]
    return lines


def audit_lines(facts: Facts) -> list[str]:
    """What the audit found, with its bound and with what it does not say."""
    body = facts.audit
    if body is None:
        return ["**Not audited.** Nothing is known about how many people are left; see `understudy audit`."]
    frames, clips, looked = body["frames"], body["clips"], body["looked_at"]
    names = ", ".join(f"`{detector['name']}`" for detector in body["detectors"])
    lines = [
        f"Audited on {looked['clips']:,} of {looked['of_clips']:,} clips, {looked['frames']:,} frames, with {names}: "
        f"somebody was seen in {frames['found_per_1000']:.2f} of 1,000 frames and {1000 * clips['found']:.1f} of 1,000 "
        "clips."
    ]
    if frames["bound"] is None:
        lines.append("No canaries were used, so there is no bound on what the detectors missed.")
    else:
        lines.append(
            f"With {body['confidence']:.0%} confidence at most {1000 * frames['bound']:.2f} of 1,000 frames"
            + ("" if clips["bound"] is None else f" and {1000 * clips['bound']:.1f} of 1,000 clips")
            + " show somebody, provided that people who were left are as easy to see as the canaries "
            f"({', '.join(body['canaries'])}), and that {_independent(looked)} are independent. This is no guarantee "
            "that nobody is left."
        )
    for name, leak in body["leaks"].items():
        if leak is not None:
            lines.append(
                f"A linear probe tells the {name.removesuffix(BY_OUTLINES)} from {_told_by(name)} in "
                f"{leak['accuracy']:.1%} of clips ({leak['low']:.1%} to {leak['high']:.1%}); guessing gives "
                f"{leak['chance']:.1%}."
            )
    found = ", ".join(f"{row['what']} ({row['count']:,})" for row in body["findings"])
    lines.append(f"Beyond pixels the audit found: {found or 'nothing'}.")
    return lines


def _independent(looked: Mapping[str, Any]) -> str:
    same = looked["recordings"] == looked["clips"]
    return "clips, of which nobody knows the recordings," if same else f"its {looked['recordings']:,} recordings"


def _told_by(leak: str) -> str:
    return "the outlines in the removal records" if leak.endswith(BY_OUTLINES) else "traces of the filling"


def datasheet(facts: Facts) -> str:
    """datasheet.md, by the sections of Gebru et al. 2021 (Datasheets for Datasets, CACM 64)."""
    manifest = facts.manifest
    seconds = manifest.frames / max(manifest.nsamples, 1) / manifest.fps
    refused = [f"- {count:,} x {reason}" for reason, count in Counter(facts.refused).most_common()]
    sections = {
        "Motivation": ["For what purpose was it made, by whom, and who paid for it?", TO_FILL_IN],
        "Composition": [
            f"An instance is a clip of {seconds:.1f} seconds on average, without sound, with one of "
            f"{len(manifest.classes)} labels: {_KINDS[manifest.kind]}. There are {manifest.nsamples:,}.",
            f"{manifest.refused:,} sources were refused when it was packed{':' if refused else '.'}",
            *refused,
            "Each clip comes with label, frames, rate, size, duration, kind and removal record. Its key is a keyed "
            "hash of the source's name; without the secret it can't be linked to the source. The sample table has "
            "besides where it lies, a checksum and, where the packer was told, its group: a keyed hash that clips of "
            "one recording (or of one person, if they were grouped so) have in common, so that they can be linked to "
            "each other. There is nothing else.",
            "Does it show, or could it be linked to, people?",
            *removal_lines(facts),
            *audit_lines(facts),
        ],
        "Collection process": ["Where are the videos from, who chose them, and did those shown consent?", TO_FILL_IN],
        "Preprocessing, cleaning, labelling": [
            f"Every video was decoded whole, resampled to {manifest.fps:g} frames a second and short side "
            f"{manifest.short_side}, and encoded afresh as `{manifest.codec}`; sound, captions, tags and all other "
            "tracks were left behind. Videos that don't decode whole were refused, not repaired.",
            "How were the labels made?",
            TO_FILL_IN,
        ],
        "Uses": [
            "Meant for pre-training models that recognise actions. What remains of a removed person, a smear that "
            "moves as the person did, may give away the action; where there is an audit, it says how much.",
            "What should it not be used for?",
            TO_FILL_IN,
        ],
        "Distribution": [f"Licence: {manifest.licence}.", "How, when and to whom is it given?", TO_FILL_IN],
        "Maintenance": [
            f"This version is the one whose manifest has the digest `{manifest.digest}`.",
            "Who answers questions, corrects errors, and takes out clips on request?",
            TO_FILL_IN,
        ],
    }
    body = (f"## {title}\n\n" + "\n\n".join(lines).replace("\n\n- ", "\n- ") for title, lines in sections.items())
    return f"# Datasheet of {manifest.name}\n\n" + "\n\n".join(body) + "\n"


def check_unwritten(folder: Path, overwrite: bool, names: tuple[str, ...]) -> None:
    """Raise UserError where a paper is there already, for somebody may have filled it in."""
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"{folder / there[0]}: is there already; add --overwrite if nothing in it was filled in by hand"
        )

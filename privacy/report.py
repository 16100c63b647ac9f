"""What an audit found, in words: a few lines for a terminal, and one HTML page with the worst frames to look at."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.privacy.audit import Looked, Seen
from understudy.privacy.audit_clips import Picture
from understudy.privacy.names import SHORTEST

COLOURS = {"person": "#e5484d", "face": "#f5a524", "text": "#3b82f6"}


@dataclass(frozen=True)
class Shot:
    """The worst frame of a clip, and what was seen in it."""

    looked: Looked
    picture: Picture
    seen: Sequence[Seen]


def summary(body: Mapping[str, Any]) -> str:
    """The audit in a few lines; `body` is what `audit.json` holds."""
    return "\n".join(_sentences(body))


def _sentences(body: Mapping[str, Any]) -> list[str]:
    looked, frames, clips = body["looked_at"], body["frames"], body["clips"]
    every = "every frame" if looked["every"] == 1 else f"one frame in {looked['every']}"
    share = (
        "all"
        if looked["clips"] == looked["of_clips"]
        else f"{looked['clips']:,} of {looked['of_clips']:,}, drawn at random,"
    )
    names = ", ".join(detector["name"] for detector in body["detectors"])
    lines = [
        f"{body['name']}: {share} clips, {every} ({looked['frames']:,}), by {names}",
        f"  somebody seen in {frames['found_per_1000']:.2f} of 1,000 frames, "
        f"in {1000 * clips['found']:.1f} of 1,000 clips",
    ]
    lines += _units(body)
    if frames["bound"] is None:
        lines.append("  no bound: without --canaries nobody knows what the detectors miss")
    else:
        lines += [
            f"  canaries ({group}): {canary['found']} of {canary['clips']} clips found, "
            f"{canary['frames_seen']:.0%} of frames{_blind(canary)}"
            for group, canary in body["canaries"].items()
        ]
        lines.append(
            f"  so at most {1000 * frames['bound']:.2f} of 1,000 frames{_of_clips(clips['bound'])} show somebody, "
            f"with {body['confidence']:.0%} confidence"
        )
        lines.append(f"  {_at_best(body)}")
    counted = [f"{name} in {body[f'{name}_per_1000']:.2f}" for name in ("faces", "text") if _looked_for(body, name)]
    if counted:
        lines.append(f"  {', '.join(counted)} of 1,000 frames")
    if looked["unread"]:
        lines.append(f"  {_unread(body)}")
    lines += [f"  traces tell the {name}: {_leak_words(leak)}" for name, leak in body["leaks"].items()]
    lines += [
        f"  beyond pixels: {row['what']}, {row['count']:,} times, such as {row['example']}" for row in body["findings"]
    ]
    if not body["findings"]:
        lines.append("  beyond pixels: nothing found")
    if body["names"]["too_short"]:
        lines.append(f"  {_short_names(body)}")
    return lines


def _short_names(body: Mapping[str, Any]) -> str:
    names = body["names"]
    return (
        f"{names['too_short']:,} of {names['sought']:,} names have less than {SHORTEST} characters without their "
        "extension: too short to be sought in bytes so, as they would come up by chance"
    )


def _blind(canary: Mapping[str, Any]) -> str:
    return f"; {canary['unread']} could not be looked at, counted as not seen" if canary["unread"] else ""


def _looked_for(body: Mapping[str, Any], name: str) -> bool:
    """Whether there was a detector of `faces` or `text`, without which a count of none says nothing."""
    return any(name.startswith(detector["what"]) for detector in body["detectors"])


def _unread(body: Mapping[str, Any]) -> str:
    count = body["looked_at"]["unread"]
    first = next((row for row in body["worst"] if row["unread"]), None)  # none where `worst` was cut off before it
    example = f" ({first['key']}: {first['unread']})" if first else ""
    return f"{count:,} {'clip' if count == 1 else 'clips'} could not be read, counted as showing somebody{example}"


def _at_best(body: Mapping[str, Any]) -> str:
    """What so many clips and such canaries could show, so that nobody removes more where more clips are wanted."""
    frames, clips = body["frames"], body["clips"]
    return (
        f"had nobody been seen, these clips and canaries would show at most {1000 * frames['least']:.2f} of 1,000 "
        f"frames{_of_clips(clips['least'])}: for less, look at more of them"
    )


def _of_clips(share: float | None) -> str:
    """There is no bound on clips where not every frame was looked at."""
    return "" if share is None else f" and {1000 * share:.1f} of 1,000 clips"


def _units(body: Mapping[str, Any]) -> list[str]:
    """What the bounds take for independent, and what nobody looked at."""
    looked = body["looked_at"]
    if looked["recordings"] == looked["clips"]:
        lines = ["  clips count as independent: if some are of one recording, the bounds are too small"]
    else:
        lines = [f"  clips of one recording count as one: {looked['recordings']:,} recordings"]
    if looked["passed_over"]:
        count, first = looked["passed_over"], body["passed_over"][0]
        lines.append(f"  {count:,} file{'s' * (count > 1)} not looked at, by the name no video, such as {first}")
    return lines


def _leak_words(leak: Mapping[str, Any] | None) -> str:
    if leak is None:
        return "too few clips to say"
    verdict = "leaks" if leak["low"] > leak["chance"] else "not shown to leak"
    return (
        f"{leak['accuracy']:.1%} right ({leak['low']:.1%} to {leak['high']:.1%}) where guessing gives "
        f"{leak['chance']:.1%}: {verdict}"
    )


def page(body: Mapping[str, Any], shots: Sequence[Shot]) -> str:
    """The audit as one HTML page without links to anything outside it."""
    looked, frames, clips = body["looked_at"], body["frames"], body["clips"]
    bounded = frames["bound"] is not None
    figures = [
        (
            "frames that may show somebody",
            f"≤ {1000 * frames['bound']:.2f}" if bounded else "no bound",
            "of 1,000, upper bound",
        ),
        (
            "clips that may show somebody",
            "no bound" if clips["bound"] is None else f"≤ {1000 * clips['bound']:.1f}",
            "of 1,000, upper bound",
        ),
        ("frames with a hit", f"{frames['found_per_1000']:.2f}", "of 1,000, as counted"),
        (
            "frames with text",
            f"{body['text_per_1000']:.2f}" if _looked_for(body, "text") else "not sought",
            "of 1,000, as counted",
        ),
        ("findings beyond pixels", str(sum(row["count"] for row in body["findings"])), "tags, sound, names ..."),
    ]
    cards = "".join(
        f"<div><b>{value}</b><span>{_e(name)}</span><small>{_e(unit)}</small></div>" for name, value, unit in figures
    )
    detectors = _table(
        ("detector", "looks for", "hits per 1,000 frames", "clips with a hit", "weights", "licence"),
        (
            (d["name"], d["what"], f"{d['frames_per_1000']:.2f}", d["clips"], ", ".join(d["models"]), d["licence"])
            for d in body["detectors"]
        ),
    )
    canaries = (
        _table(
            ("canaries", "clips", "clips found", "not looked at", "frames seen"),
            (
                (group, c["clips"], c["found"], c["unread"], f"{c['frames_seen']:.0%}")
                for group, c in body["canaries"].items()
            ),
        )
        if body["canaries"]
        else "<p>No canaries were used, so nobody knows what the detectors miss, and there is no bound.</p>"
    )
    leaks = _table(
        ("what traces of filling tell", ""), ((name, _leak_words(leak)) for name, leak in body["leaks"].items())
    )
    findings = (
        _table(
            ("beyond pixels", "times", "such as"),
            ((row["what"], row["count"], row["example"]) for row in body["findings"]),
        )
        if body["findings"]
        else "<p>Beyond pixels: nothing found.</p>"
    )
    if body["names"]["too_short"]:
        findings += f"<p>{_e(_short_names(body))}.</p>"
    seen_lower = "" if frames["seen_lower"] is None else (
        f"<p>By the canaries, at least {frames['seen_lower']:.0%} of frames with somebody are noticed; the bounds are "
        f"what was found, at most, divided by that. "
        f"H{_at_best(body)[1:]}.</p>"
    )  # fmt: skip
    worst = "".join(map(_figure, shots)) or "<p>No detector saw anybody.</p>"
    scope = (
        "all clips"
        if looked["clips"] == looked["of_clips"]
        else f"{looked['clips']:,} of {looked['of_clips']:,} clips, drawn at random"
    )
    unread = f"<p>{_e(_unread(body))}.</p>" if looked["unread"] else ""
    unread += "".join(f"<p>{_e(line.strip().capitalize())}.</p>" for line in _units(body))
    rhythm = "every one" if looked["every"] == 1 else f"one in {looked['every']}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Audit of {_e(body["name"])}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
body {{ margin: 32px auto; max-width: 1080px; padding: 0 20px }}
h1 {{ font-size: 22px; margin-bottom: 0 }} h2 {{ font-size: 16px; margin: 32px 0 8px }}
.figures {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }}
.figures div {{ flex: 1 1 160px; border: 1px solid #8884; border-radius: 8px; padding: 12px 14px }}
.figures b {{ display: block; font-size: 24px; font-weight: 600 }}
.figures span, .figures small {{ display: block }} small, .faint {{ opacity: .65 }}
table {{ border-collapse: collapse; margin: 12px 0; width: 100% }}
th {{ text-align: left; font-weight: 600 }}
th, td {{ padding: 4px 12px 4px 0; border-bottom: 1px solid #8883; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
.sheet {{ display: flex; flex-wrap: wrap; gap: 14px }}
figure {{ margin: 0; width: 250px }} figure svg {{ display: block; width: 250px; height: auto; border-radius: 4px }}
figcaption {{ font-size: 12px; margin-top: 4px; overflow-wrap: anywhere }}
.note {{ border-left: 3px solid #e5484d; padding: 4px 12px }}
</style></head><body>
<h1>Audit of {_e(body["name"])}</h1>
<p class="faint">{scope}, {looked["frames"]:,} frames ({rhythm}),
scales {", ".join(map(str, looked["tiles"]))}, confidence {body["confidence"]:.0%}, {_e(body["tool"])}<br>
digest {_e(body["digest"])}</p>
<p class="note">This page shows frames in which there may be people. Keep it to yourself; audit.json is the part to
publish.</p>
<div class="figures">{cards}</div>{unread}
<h2>Who looked</h2>{detectors}
<p>People were removed with: {_e(", ".join(body["removed_with"]) or "nothing on record")}.</p>
<h2>How much they notice</h2>{canaries}{seen_lower}
<h2>What else it gives away</h2>{leaks}{findings}
<h2>The worst frames</h2>
<p class="faint">One of each clip with a hit, those with the most such frames first. Look at them: a false alarm makes
the bounds larger, never smaller.</p>
<div class="sheet">{worst}</div>
</body></html>
"""


def _e(text: object) -> str:
    return html.escape(str(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{_e(name)}</th>' for name in head)}</tr>{body}</table>" if body else ""


def _figure(shot: Shot) -> str:
    """The frame as an SVG with a box for each hit."""
    from PIL import Image

    height, width = shot.picture.shape[:2]
    buffer = io.BytesIO()
    Image.fromarray(shot.picture).save(buffer, "WEBP", quality=80)
    boxes = "".join(
        f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="none" '
        f'stroke="{COLOURS[seen.hit.what]}" stroke-width="{max(1, width / 160):.1f}"/>'
        for seen in shot.seen
        for x0, y0, x1, y1 in [seen.hit.box]
    )
    names = ", ".join(f"{seen.detector} {seen.hit.score:.2f}" for seen in shot.seen)
    share = f"{shot.looked.with_hit.get('somebody', 0)} of {shot.looked.frames} frames"
    picture = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="frame {shot.seen[0].frame}">'
        f'<image href="data:image/webp;base64,{picture}" width="{width}" height="{height}"/>{boxes}</svg>'
        f"<figcaption>{_e(shot.looked.clip.key)}, frame {shot.seen[0].frame}<br>"
        f'<span class="faint">{_e(names)}; {share}</span></figcaption></figure>'
    )

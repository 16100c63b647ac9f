"""The chart (SVG) and tables (Markdown) of docs/loading.md out of what loaders.py wrote. Every number comes from there.

    python benchmarks/chart.py benchmarks/results/loaders.json --svg docs/loaders.svg --into docs/loading.md

The tables go to stdout, or between the lines `<!-- loaders -->` and `<!-- /loaders -->` of the file given with --into.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from page import with_table

from understudy.shards.errors import UserError

Row = dict[str, Any]

SOURCES = {
    "mjpeg": "JPEG shards, 6 fps",
    "h264": "H.264 shards, 6 fps",
    "original": "originals, H.264, 30 fps",
    "vp9": "VP9, 6 fps",
    "raw": "raw RGB, 6 fps",
}
# Rows that answer a question of ours rather than a user's; they are in the table only.
NOT_DRAWN = ("kernel alone", "understudy native, ")
LEFT, WIDTH, BAR, GAP, TOP = 250, 940, 9, 7, 72
OURS, PEERS = ("#f0a06a", "#c8440a"), ("#b4bcc6", "#5b6775")
FONT = 'font-family="system-ui, sans-serif"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--svg", type=Path, help="where to write the chart")
    parser.add_argument("--into", type=Path, help="the Markdown file that has the marks between which the tables go")
    args = parser.parse_args(arguments)
    results = json.loads(args.results.read_bytes())
    if args.svg:
        args.svg.write_text(svg(results), encoding="utf-8")
    tables = f"{ratio_table(results)}\n\n{row_table(results)}\n"
    if not args.into:
        print(tables, end="")
        return 0
    text = args.into.read_text(encoding="utf-8")
    try:
        args.into.write_text(with_table(text, "loaders", tables), encoding="utf-8")
    except UserError as error:
        print(f"error: {args.into}: {error}", file=sys.stderr)
        return 2
    return 0


def row_table(results: Row) -> str:
    """All rows, those that did not run with the reason."""
    lines = [
        "| loader | source | views | samples/s | CPU ms/sample | resident MB | KB/clip | as the reference | note |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in results["rows"]:
        cells = [
            row["loader"],
            SOURCES[row["source_format"]],
            str(row["views"]),
            _with_interval(row, "samples_per_second", "{:,.0f}"),
            _with_interval(row, "cpu_ms_per_sample", "{:.2f}"),
            _number(row["peak_rss"] and row["peak_rss"] / 1e6, "{:,.0f}"),
            _number(row["bytes_per_clip"] and row["bytes_per_clip"] / 1e3, "{:,.0f}"),
            _agreement(row),
            (row["note"] or "").replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_table(results: Row) -> str:
    """The ratios that the project is held to."""
    lines = ["| | over | median of the rounds | interval | target | |", "|---|---|--:|---|--:|---|"]
    for ratio in results["ratios"]:
        low, high = ratio["interval"]
        target = "" if ratio["target"] is None else f"{'at most ' if ratio['at_most'] else ''}{ratio['target']:g}"
        reached = {True: "reached", False: "not reached", None: ""}[ratio["reached"]]
        if ratio["reached"] and not (high <= ratio["target"] if ratio["at_most"] else low >= ratio["target"]):
            reached = "by the median only"
        spread = f"{low:.2f} to {high:.2f} ({ratio['coverage']:.0%})"
        lines.append(f"| {ratio['name']} | {ratio['over']} | {ratio['ratio']:.2f} | {spread} | {target} | {reached} |")
    return "\n".join(lines)


def _with_interval(row: Row, name: str, form: str) -> str:
    if row[name] is None:
        return ""
    low, high = row[f"{name}_interval"]
    return f"{form.format(row[name])} ({form.format(low)} to {form.format(high)})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _agreement(row: Row) -> str:
    if row["mean_difference"] is None:
        return ""
    return f"{'yes' if row['matches_reference'] else 'no'}, off by {row['mean_difference']:.2f}/255"


def svg(results: Row) -> str:
    """Bars of samples a second, one group a source, in it one block a loader with a bar for each number of views."""
    rows = [row for row in results["rows"] if not row["loader"].startswith(NOT_DRAWN)]
    ran = [row for row in rows if row["samples_per_second"]]
    views = sorted({row["views"] for row in ran})
    longest = max((row["samples_per_second_interval"][1] for row in ran), default=1.0)
    scale = (WIDTH - LEFT - 90) / longest
    body: list[str] = []
    y = TOP
    for source, title in SOURCES.items():
        group = [row for row in ran if row["source_format"] == source]
        if not group:
            continue
        size = next((row["bytes_per_clip"] for row in group if row["bytes_per_clip"]), None)
        about = title + (f" ({size / 1e6:.1f} MB a clip)" if size else "")
        y += 22
        body.append(f'<text x="8" y="{y}" {FONT} font-size="13" font-weight="600">{escape(about)}</text>')
        y += 9
        for loader in _fastest_first(group):
            block = sorted((row for row in group if row["loader"] == loader), key=lambda row: row["views"])
            middle = y + len(block) * BAR / 2 + 4
            weight = 600 if block[0]["kind"] == "own" else 400
            body.append(
                f'<text x="{LEFT - 8}" y="{middle:.1f}" {FONT} font-size="12" font-weight="{weight}" text-anchor="end">'
                f"{escape(loader)}</text>"
            )
            for row in block:
                body += _bar(row, y, scale, _colour(row, views))
                y += BAR
            y += GAP
    heading = f"Clips per second on {results['machine']['cores_used']} cores"
    legend = _legend(views, y + 20)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 40}" fill="#1f2328">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            f'<text x="8" y="26" {FONT} font-size="15" font-weight="600">{escape(heading)}</text>',
            *(
                f'<text x="8" y="{44 + 15 * i}" {FONT} font-size="11" fill="#59636e">{escape(line)}</text>'
                for i, line in enumerate((results["settings"]["clip"], _about(results)))
            ),
            *body,
            *legend,
            "</svg>\n",
        ]
    )


def _fastest_first(rows: Sequence[Row]) -> list[str]:
    best: dict[str, float] = {}
    for row in rows:
        best[row["loader"]] = max(best.get(row["loader"], 0.0), row["samples_per_second"])
    return sorted(best, key=lambda loader: -best[loader])


def _colour(row: Row, views: Sequence[int]) -> str:
    light, dark = OURS if row["kind"] == "own" else PEERS
    return dark if row["views"] == views[-1] else light


def _bar(row: Row, y: float, scale: float, colour: str) -> Iterator[str]:
    rate, (low, high) = row["samples_per_second"], row["samples_per_second_interval"]
    middle = y + (BAR - 1) / 2
    yield f'<rect x="{LEFT}" y="{y}" width="{rate * scale:.1f}" height="{BAR - 1}" fill="{colour}"/>'
    yield (
        f'<line x1="{LEFT + low * scale:.1f}" x2="{LEFT + high * scale:.1f}" y1="{middle}" y2="{middle}" '
        'stroke="#1f2328" stroke-width="1"/>'
    )
    yield (
        f'<text x="{LEFT + high * scale + 5:.1f}" y="{middle + 3.5}" {FONT} font-size="10" fill="#59636e">'
        f"{rate:,.0f}</text>"
    )


def _legend(views: Sequence[int], y: float) -> Iterator[str]:
    x = LEFT
    for number in views:
        row = {"kind": "own", "views": number}
        yield f'<rect x="{x}" y="{y - 8}" width="10" height="8" fill="{_colour(row, views)}"/>'
        row = {"kind": "peer", "views": number}
        yield f'<rect x="{x + 13}" y="{y - 8}" width="10" height="8" fill="{_colour(row, views)}"/>'
        words = "1 crop a decode" if number == 1 else f"{number} crops a decode"
        yield f'<text x="{x + 29}" y="{y}" {FONT} font-size="11">{words}</text>'
        x += 150


def _about(results: Row) -> str:
    settings, machine = results["settings"], results["machine"]
    coverage = min((row["coverage"] for row in results["rows"] if row["coverage"]), default=0.0)
    return (
        f"{machine['processor']}; median of {settings['rounds']} interleaved rounds, lines: {coverage:.0%} intervals; "
        f"{results['when'][:10]}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""The transfer table (Markdown) and its chart (SVG) out of what recipes/transfer.py wrote. Every number of ours comes
from that JSON; the paper's rows beside them are quoted, and marked so.

    python benchmarks/transfer.py results/transfer-demo.json ... --svg docs/transfer.svg --into docs/transfer.md

The tables go to stdout, or between the lines `<!-- transfer -->` and `<!-- /transfer -->` of the file of --into.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from page import with_table

from understudy.recipes.table import PROTOCOLS, results_table
from understudy.shards.errors import UserError

Row = dict[str, Any]

# Top-1 in per cent, fine-tuning and linear probe, a single seed each. PPMA's figures as SMPLy-Private (2024 preprint,
# table 1) quotes them; it says that all but its own are from SynAPT and PPMA. Mini-SSv2 is in no table we know of.
QUOTED: dict[str, dict[str, tuple[float, float]]] = {
    "PPMA (No-Human Kinetics, then + Synthetic)": {
        "ucf101": (92.5, 88.4),
        "hmdb51": (71.2, 64.9),
        "diving48": (64.0, 21.9),
        "ikea-fa": (67.9, 57.7),
        "uav-human": (38.5, 19.3),
    },
    "VideoMAE, aligned on Kinetics (real people)": {
        "ucf101": (93.4, 91.5),
        "hmdb51": (73.5, 69.8),
        "diving48": (66.3, 19.9),
        "ikea-fa": (72.2, 58.4),
        "uav-human": (34.8, 13.8),
    },
}
TASKS = ("ucf101", "hmdb51", "diving48", "ikea-fa", "uav-human")
CACHED = " \\*"
FOOTNOTE = (
    "Fine-tuning / linear probe. The quoted probes are trained at one rate on clips that are augmented anew each\n"
    "time, here the protocol `online`; \\* marks our `linear`, of cached features, at a rate chosen on a part of train."
)
COLOURS = ("#8a94a0", "#4878a8", "#5f9e6e", "#c8440a", "#8a5fa8", "#b0892f")
LEFT, WIDTH, ROW, TOP = 190, 900, 17, 64
FONT = 'font-family="system-ui, sans-serif"'


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables and draw; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--svg", type=Path, help="where to write the chart")
    parser.add_argument("--into", type=Path, help="the Markdown file that has the marks between which the tables go")
    args = parser.parse_args(arguments)
    parts: list[Row] = [json.loads(path.read_bytes()) for path in args.results]
    results = {key: [row for part in parts for row in part[key]] for key in ("rows", "differences")}
    if args.svg:
        args.svg.write_text(svg(results["rows"]), encoding="utf-8")
    tables = f"{results_table(results)}\n\n{quoted_table(results['rows'])}\n"
    if not args.into:
        print(tables, end="")
        return 0
    text = args.into.read_text(encoding="utf-8")
    try:
        args.into.write_text(with_table(text, "transfer", tables), encoding="utf-8")
    except UserError as error:
        print(f"error: {args.into}: {error}", file=sys.stderr)
        return 2
    return 0


def quoted_table(rows: Sequence[Row]) -> str:
    """The published benchmark, fine-tuning / linear probe in per cent: our rows with intervals, or that there are none,
    then those that are quoted. Of the two linear probes, ours is the one that the quoted have, where it has been run.
    """
    lines = [f"| model | {' | '.join(TASKS)} |", "|---|" + "---:|" * len(TASKS)]
    ours = {(row["model"], row["task"], row["protocol"]): row for row in rows if row["task"] in TASKS}
    for model in dict.fromkeys(model for model, _, _ in ours):
        cells: list[str] = []
        for task in TASKS:
            online, cached = (ours.get((model, task, protocol)) for protocol in ("online", "linear"))
            probe = _cell(online) if online else f"{_cell(cached)}{CACHED if cached else ''}"
            cells.append(f"{_cell(ours.get((model, task, 'finetune')))} / {probe}")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    if not ours:
        lines.append(f"| ours | {' | '.join(['not run'] * len(TASKS))} |")
    for name, figures in QUOTED.items():
        cells = [f"{figures[task][0]} / {figures[task][1]}" for task in TASKS]
        lines.append(f"| *quoted:* {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", FOOTNOTE])


def _cell(row: Row | None) -> str:
    return "-" if row is None else f"{100 * row['top1']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def svg(rows: Sequence[Row]) -> str:
    """Top-1 as a dot on its 95 % interval, a line for each model, a block for each task and protocol."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    blocks = list(dict.fromkeys((row["task"], row["protocol"]) for row in rows))
    scale = (WIDTH - LEFT - 40) / 100
    body: list[str] = []
    y = TOP
    for task, protocol in blocks:
        members = [row for row in rows if (row["task"], row["protocol"]) == (task, protocol)]
        title = escape(f"{task}, {PROTOCOLS[protocol]}")
        body.append(f'<text x="12" y="{y}" {FONT} font-size="13" font-weight="600" fill="#1d2733">{title}</text>')
        y += 8
        marks = [(100 / members[0]["classes"], "1 3")]
        quoted = QUOTED[next(iter(QUOTED))].get(task)
        if quoted and protocol != "attentive":
            marks.append((quoted[0 if protocol == "finetune" else 1], "5 3"))
        for value, dashes in marks:
            x, end = LEFT + scale * value, y + ROW * len(members)
            body.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{end}" stroke="#1d2733" stroke-dasharray="{dashes}"/>'
            )
        for row in members:
            y += ROW
            low, middle, high = (LEFT + 100 * scale * row[key] for key in ("low", "top1", "high"))
            colour = COLOURS[models.index(row["model"]) % len(COLOURS)]
            name, value = escape(row["model"]), f"{100 * row['top1']:.1f}"
            body += [
                f'<text x="{LEFT - 12}" y="{y}" {FONT} font-size="12" text-anchor="end" fill="#3a4653">{name}</text>',
                f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>',
                f'<circle cx="{middle:.1f}" cy="{y - 4}" r="4.5" fill="{colour}"/>',
                f'<text x="{high + 6:.1f}" y="{y}" {FONT} font-size="11" fill="#3a4653">{value}</text>',
            ]
        y += 30
    axis = [
        f'<line x1="{LEFT + scale * tick}" x2="{LEFT + scale * tick}" y1="{TOP - 20}" y2="{y - 24}" stroke="#e4e8ec"/>'
        f'<text x="{LEFT + scale * tick}" y="{TOP - 26}" {FONT} font-size="11" text-anchor="middle" fill="#8a94a0">'
        f"{tick}</text>"
        for tick in range(0, 101, 20)
    ]
    heading = "Top-1 accuracy in per cent, with 95 % intervals over the validation videos; dotted: chance"
    if any(task in TASKS for task, _ in blocks):
        heading += "; dashed: PPMA, quoted"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">',
            f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>',
            f'<text x="12" y="20" {FONT} font-size="14" font-weight="600" fill="#1d2733">{heading}</text>',
            *axis,
            *body,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

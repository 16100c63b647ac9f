"""From the rounds of each row to medians, intervals and the ratios that the project is held to. No measuring here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Row = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """A median and the values between which the true one lies with a probability of `coverage`."""

    median: float
    low: float
    high: float
    coverage: float


def interval(values: Sequence[float]) -> Interval:
    """The median with the narrowest pair of order statistics that covers it with 95 %, or all values if none does.

    Nothing is assumed of the distribution; 6 values are the fewest that reach 95 %.
    """
    ordered, n = sorted(values), len(values)
    cut = 0
    while cut + 1 < n / 2 and _coverage(n, cut + 1) >= 0.95:
        cut += 1
    return Interval(median(ordered), ordered[cut], ordered[n - 1 - cut], _coverage(n, cut))


def _coverage(n: int, cut: int) -> float:
    """How likely the median lies between the cut-th lowest and the cut-th highest of n values, counted from 0."""
    return 1 - 2 * sum(math.comb(n, i) for i in range(cut + 1)) / 2**n


@dataclass(frozen=True)
class Aim:
    """A ratio that is to be reached: of `quantity`, the row `ours` over the row `theirs`, or the best of several."""

    name: str
    ours: Callable[[Row], bool]
    theirs: Callable[[Row], bool]
    quantity: Literal["samples_per_second", "cpu_ms_per_sample"]
    target: float | None
    at_most: bool = False


def is_row(loader: str, source_format: str, views: int) -> Callable[[Row], bool]:
    """Whether a row is this one."""
    return lambda row: (row["loader"], row["source_format"], row["views"]) == (loader, source_format, views)


def is_peer(source_format: str, views: int, prefix: str = "") -> Callable[[Row], bool]:
    """Whether a row is another project's loader on these sources."""
    return lambda row: (
        row["kind"] == "peer"
        and (row["source_format"], row["views"]) == (source_format, views)
        and row["loader"].startswith(prefix)
    )


NATIVE, KERNEL, PYAV, WORKERS = "understudy native", "kernel alone", "DataLoader + PyAV", "DataLoader + simplejpeg"

AIMS = (
    Aim(
        "native, mjpeg, 4 views, over DataLoader + PyAV on the originals as usual (1 view a decode)",
        is_row(NATIVE, "mjpeg", 4),
        is_row(PYAV, "original", 1),
        "samples_per_second",
        45.0,
    ),
    Aim(
        "native, mjpeg, 4 views, over DataLoader + PyAV on the originals with 4 views a decode too",
        is_row(NATIVE, "mjpeg", 4),
        is_row(PYAV, "original", 4),
        "samples_per_second",
        None,
    ),
    Aim(
        "native, mjpeg, 4 views, over the best peer on the originals with 4 views a decode too",
        is_row(NATIVE, "mjpeg", 4),
        is_peer("original", 4),
        "samples_per_second",
        None,
    ),
    Aim(
        "native, mjpeg, 4 views, over the better of stock DALI's graphs on the same shards",
        is_row(NATIVE, "mjpeg", 4),
        is_peer("mjpeg", 4, "DALI"),
        "samples_per_second",
        10.0,
    ),
    Aim(
        "native, mjpeg, 4 views, over the best peer on the same shards",
        is_row(NATIVE, "mjpeg", 4),
        is_peer("mjpeg", 4),
        "samples_per_second",
        1.8,
    ),
    Aim(
        "native, mjpeg, 1 view, over DataLoader + simplejpeg + OpenCV on the same shards",
        is_row(NATIVE, "mjpeg", 1),
        is_row(WORKERS, "mjpeg", 1),
        "samples_per_second",
        1.7,
    ),
    *(
        Aim(
            f"CPU of the loader over the bare kernel, {source_format}, {views} views",
            is_row(NATIVE, source_format, views),
            is_row(KERNEL, source_format, views),
            "cpu_ms_per_sample",
            1.15,
            at_most=True,
        )
        for source_format in ("mjpeg", "h264")
        for views in (1, 4)
    ),
    Aim(
        "native, h264, 4 views, over the best peer on the same shards",
        is_row(NATIVE, "h264", 4),
        is_peer("h264", 4),
        "samples_per_second",
        1.8,
    ),
    Aim(
        "CPU of the AVX2 variant over the AVX-512 variant, mjpeg, 4 views",
        is_row(f"{NATIVE}, avx2", "mjpeg", 4),
        is_row(f"{NATIVE}, avx512", "mjpeg", 4),
        "cpu_ms_per_sample",
        1.35,
        at_most=True,
    ),
)


def ratios(rows: Sequence[Row], aims: Sequence[Aim] = AIMS) -> list[dict[str, Any]]:
    """Each aim with what came of it: the median of the rounds' ratios, and its interval. Without both rows, nothing.

    Of several rows on the other side the best one counts, by its median. Rows of other frames don't count, those whose
    pixels differ by their conversion to RGB do.
    """
    found: list[dict[str, Any]] = []
    for aim in aims:
        ran = [row for row in rows if row["rounds"] and row["same_frames"]]
        ours, theirs = [row for row in ran if aim.ours(row)], [row for row in ran if aim.theirs(row)]
        if not ours or not theirs:
            continue
        best = min if aim.quantity == "cpu_ms_per_sample" else max
        other = best(theirs, key=lambda row: row[aim.quantity])
        pairs = zip(ours[0]["rounds"], other["rounds"])  # the rounds of a run are interleaved
        spread = interval([mine[aim.quantity] / its[aim.quantity] for mine, its in pairs])
        reached = None
        if aim.target is not None:
            reached = spread.median <= aim.target if aim.at_most else spread.median >= aim.target
        found.append(
            {
                "name": aim.name,
                "over": other["loader"],
                "ratio": spread.median,
                "interval": [spread.low, spread.high],
                "coverage": spread.coverage,
                "target": aim.target,
                "at_most": aim.at_most,
                "reached": reached,
            }
        )
    return found


def summarised(row: Row) -> Row:
    """`row` with the medians and intervals of its rounds; None where it has none."""
    result = dict(row)
    for name in ("samples_per_second", "cpu_ms_per_sample"):
        spread = interval([entry[name] for entry in row["rounds"]]) if row["rounds"] else None
        result[name] = spread and spread.median
        result[f"{name}_interval"] = spread and [spread.low, spread.high]
    result["coverage"] = interval([0.0] * len(row["rounds"])).coverage if row["rounds"] else None
    result["peak_rss"] = max((entry["rss"] for entry in row["rounds"]), default=None)
    return result

"""`understudy remove-people`: videos without their people, and a record of what could not be done safely."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import arg

from understudy.shards.errors import UserError
from understudy.shards.machine import usable_cores

if TYPE_CHECKING:
    from understudy.privacy.removal import Removal

SECRET = "~/.config/understudy/secret"  # as help shows it; XDG_CONFIG_HOME is honoured


@dataclass(frozen=True)
class RemovalOptions:
    """How people are found, what replaces them, and when a clip is dropped."""

    segmenter: Literal["mediapipe", "maskrcnn", "transformers"] = "mediapipe"
    """mediapipe: from its wheel, no model hub, Apache-2.0. maskrcnn: torchvision's v2, code BSD-3, weights trained on
    COCO. transformers: a local folder with Mask2Former, RF-DETR-Seg or the like, under the licence of that model."""
    weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: see docs/removal.md)")] = None
    """Weights: mediapipe's wheel, maskrcnn's .pth or .safetensors, or a transformers model folder."""
    masks: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: masks are made)")] = None
    """Your own masks instead: FOLDER/SOURCE/000000.png and so on, SOURCE being the video's path without suffix; white,
    255, where people are."""
    device: str = "cpu"
    """Device of the maskrcnn and transformers segmenters: cpu or cuda."""
    filler: Annotated[str, arg(metavar="{background,inpaint,flat,MODULE:FUNCTION}")] = "background"
    """background: from other frames, the rest inpainted; inpaint: inpainted only; flat: grey; or your own function."""
    shape: Literal["mask", "box"] = "mask"
    """What is removed: people's outlines with a margin, or boxes, which leave no silhouette in the filling."""
    belongings: bool = True
    """Also remove shadows, missed limbs and things in hand: what stands out from the background close to a person."""
    exact: bool = False
    """The masks of --masks are correct to the pixel and miss nobody; then every frame counts as background."""
    threshold: float = 0.3
    """Probability from which a pixel counts as a person."""
    margin: float = 1.0
    """Margin around people, in tenths of their size."""
    gate: tuple[str, ...] = ()
    """Detectors that must see nobody afterwards, besides the segmenter itself: pose, palm, face, ... An audit can't use
    the same ones again."""
    keep_holes: bool = False
    """Record where frames were filled in, in cells of 16 pixels, so training can leave that out (--mae.skip-holes).
    Outlines show what people do: see docs/removal.md."""
    max_unsure: float = 0.1
    """Share of unsure frames above which a clip is dropped."""
    max_masked: float = 0.35
    """Share of the picture that may be masked."""
    min_seen: float = 0.3
    """Share of what is behind people that other frames must have shown, where it is not plain."""
    max_residual: float = 0.0
    """Share of the frames looked at afterwards (every fifth) in which somebody may still be seen."""

    def removal(self) -> Removal:
        """As the library takes it. Raises UserError for values out of range."""
        from understudy.privacy.removal import Removal
        from understudy.privacy.remove import Limits, Settings

        for name in ("threshold", "max_unsure", "max_masked", "min_seen", "max_residual"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', ' ')} {getattr(self, name):g}: say a share from 0 to 1")
        if not 0 <= self.margin <= 10:
            raise UserError(f"margin {self.margin:g}: say a number from 0 to 10")
        if self.masks and self.weights:
            raise UserError("--masks and --weights: say one, with masks of your own nothing is segmented")
        if self.exact and not self.masks:
            raise UserError("--exact is for --masks only: no segmenter is right to the pixel")
        return Removal(
            segmenter=self.segmenter,
            weights=self.weights,
            masks=self.masks,
            device=self.device,
            filler=self.filler,
            settings=Settings(
                threshold=self.threshold,
                margin=self.margin,
                belongings=self.belongings,
                shape=self.shape,
                exact=self.exact,
            ),
            limits=Limits(self.max_unsure, self.max_masked, self.min_seen, self.max_residual),
            gate=self.gate,
            keep_holes=self.keep_holes,
        )

    def tell_who_looks(self) -> None:
        """Say on standard error where nobody does: with masks there is no segmenter that would look again."""
        if self.masks and not self.gate:
            print(
                "understudy: with --masks nobody looks at the result; name detectors that do with --gate, such as face",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class RemovePeople:
    """Remove people from videos. Clips that can't be done safely are left out, with the reason. After a kill, the same
    command resumes. Pack OUT afterwards, or do both at once with pack --remove-people."""

    source: Annotated[Path, tyro.conf.Positional, arg(metavar="SOURCE")]
    """A folder of class folders, or a text file with `path;label` per line."""
    out: Annotated[Path, tyro.conf.Positional, arg(metavar="OUT")]
    """New folder for the videos, OUT/CLASS/KEY.mp4 at their own size, and for the record, OUT/removal.jsonl."""
    options: Annotated[RemovalOptions, tyro.conf.arg(name="")] = RemovalOptions()
    fps: Annotated[float | None, arg(metavar="FPS", help_behavior_hint="(default: the video's own)")] = None
    """Frames per second to keep; fewer take less time."""
    sheets: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """Folder for a picture of each clip before, masked and after. They show people: don't publish them."""
    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: from SOURCE)")] = None
    """File of class names, one per line, in label order."""
    root: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: the list's own)")] = None
    """Folder that a list's paths are relative to."""
    secret_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint=f"(default: {SECRET})")] = None
    """Secret that the names of the videos are made with, created if missing. Back it up, never publish it."""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one per core)")] = None
    """Processes; each needs up to 2.1 GB at 1920x1080, and 3.2 GB at 3840x2160."""

    def run(self) -> None:
        """Do it, and say on standard output what came of it."""
        from understudy.privacy.removal import remove_from_all, tools
        from understudy.privacy.removal_record import CLIPS
        from understudy.shards.collect import collect
        from understudy.shards.keys import default_secret_path, load_secret

        if self.fps is not None and not 0 < self.fps <= 240:
            raise UserError(f"fps {self.fps:g}: say a rate above 0 and up to 240")
        workers = usable_cores() if self.workers is None else self.workers
        if workers < 0:
            raise UserError(f"{workers} workers: say at least 1, or 0 to work in this process")
        removal = self.options.removal()
        for folder in (self.source, self.out):
            if self.sheets is not None and self.sheets.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{self.sheets}: lies inside {folder}, and sheets show people; give a folder elsewhere")
        sources, classes = collect(self.source, self.out, root=self.root, classes_file=self.classes)
        secret_file = self.secret_file or default_secret_path()
        secret, created = load_secret(secret_file)
        if created:
            print(f"understudy: made {secret_file}, the secret that the videos' names hang on", file=sys.stderr)
        tools(removal)
        self.options.tell_who_looks()
        summary = remove_from_all(
            sources, classes, self.out, removal, secret, fps=self.fps, sheets=self.sheets, workers=workers
        )
        print(f"{self.out}: {summary.kept} kept, {summary.dropped} dropped, {summary.refused} refused")
        for reason, count in summary.reasons:
            print(f"  {count} x {reason}")
        if summary.reasons:
            print(f"  see {self.out / CLIPS}")

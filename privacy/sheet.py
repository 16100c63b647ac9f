"""A picture of one clip before, masked and after, for a person to look at. It shows the people: keep it to yourself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.opencv import opencv
from understudy.privacy.remove import Removed

WIDTH, COLUMNS = 240, 6
MADE_UP, SEEN_BEHIND, UNSURE = (255, 40, 40), (40, 220, 60), (255, 200, 0)


@dataclass
class Sheet:
    """Gathers strips of frames, the masks coloured over the originals: green where the background was seen, red where
    it was made up, and a yellow frame around what was unsure.
    """

    strips: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, shot: Removed) -> None:
        """One strip for a shot: COLUMNS moments, each before, masked and after."""
        cv2 = opencv()

        columns: list[NDArray[np.uint8]] = []
        for number in np.linspace(0, len(shot.frames) - 1, COLUMNS).round().astype(int):
            before = shot.before[number]
            hole, seen = shot.holes[number], shot.seen[number]
            masked = before.astype(np.uint16)
            for where, colour in ((hole & ~seen, MADE_UP), (seen, SEEN_BEHIND)):
                masked[where] = (masked[where] + np.array(colour, np.uint16)) // 2
            stack = [before, masked.astype(np.uint8), shot.frames[number]]
            height = round(before.shape[0] * WIDTH / before.shape[1])
            small = [cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA) for picture in stack]
            if shot.unsure[number]:
                cv2.rectangle(small[1], (0, 0), (WIDTH - 1, height - 1), UNSURE, 3)
            columns.append(np.vstack(small))
        self.strips.append(np.hstack(columns))

    def save(self, path: Path, title: str) -> None:
        """Write all strips, one below the other, under the title."""
        cv2 = opencv()

        height, width = 24, WIDTH * COLUMNS
        line = np.full((height, width, 3), 255, np.uint8)
        cv2.putText(line, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.vstack([line, *self.strips])[..., ::-1])

"""What a training stage is given and what it says of itself when it has finished. `train.py` runs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.models.augment import Augment
from understudy.models.optim import Halved, learning_rate
from understudy.models.randaugment import OPERATIONS
from understudy.shards.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One stage's schedule. `batch_size` is global and counts views; `views` are crops of one decode."""

    steps: int
    """Steps of the stage."""
    batch_size: int
    """Rows per step over all ranks, views included."""
    views: int
    """Crops per decoded window."""
    rate: float
    """Peak learning rate."""
    warmup: int
    """Steps over which it rises linearly from `start`."""
    weight_decay: float
    """Weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    layer_decay: float = 1.0
    """Factor of the rate from each layer to the one before it."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the frame's area in a crop."""
    flip: bool = False
    """Mirror half of the views."""
    start: float = 1e-6
    """Rate of the first step."""
    end: float = 0.0
    """Rate that the cosine ends at."""
    halved: Halved = "no"
    """The rate halves when warm-up ends, as in the released PPMA code: whole in its masked autoencoding, where the
    cosine is one of the whole run; rest in its alignment and fine-tuning, where it is one of the steps that are left.
    """
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then what the stage gives; 0 for none, 0.9999 is usual."""
    blend: bool = False
    """Every step takes a batch from every corpus, `batch_size` shared among them, instead of one from one of them."""
    augment: Augment = field(default_factory=Augment)
    """On the device, for labelled stages."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained with."""
        if self.steps < 1 or self.warmup < 0 or not 0 <= self.ema < 1:
            raise UserError(
                f"a stage needs at least 1 step, warm-up of 0 or more and an average's decay from 0 to under 1; "
                f"not {self.steps}, {self.warmup} and {self.ema}"
            )
        if min(self.rate, self.weight_decay) < 0 or self.layer_decay <= 0 or not all(0 <= b < 1 for b in self.betas):
            raise UserError(
                f"a stage needs a rate and weight decay of 0 or more, layer decay above 0 and betas from 0 to under 1; "
                f"not {self.rate}, {self.weight_decay}, {self.layer_decay} and {self.betas}"
            )
        strength, shares = self.augment, (self.augment.probability, self.augment.erasing)
        if (
            not 0 <= strength.operations <= len(OPERATIONS)
            or min(strength.deviation, strength.mixup, strength.cutmix) < 0
            or not all(0 <= share <= 1 for share in shares)
        ):
            raise UserError(
                f"augment needs 0 to {len(OPERATIONS)} operations, probability and erasing from 0 to 1, and deviation, "
                f"mixup and cutmix of 0 or more; not {strength}"
            )

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return learning_rate(step, self.steps, self.rate, self.warmup, self.start, self.end, halved=self.halved)


@dataclass(frozen=True)
class StageReport:
    """What a finished stage says of itself; `data_share` is time spent waiting for clips over step time."""

    steps: int
    samples: int
    seconds: float
    data_seconds: float
    skipped: int
    final_loss: float

    @property
    def samples_per_second(self) -> float:
        """Clips trained on per second, over all ranks."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def data_share(self) -> float:
        """Share of the wall clock spent waiting for the loader."""
        return self.data_seconds / self.seconds if self.seconds else 0.0

"""From shards to batches: order, read, decode, mix."""

from understudy.loader.batch import Batch
from understudy.loader.clips import ClipLoader, LoaderSource
from understudy.loader.evaluate import EvalLoader
from understudy.loader.views import Clip, EvalViews, Views

__all__ = ["Batch", "Clip", "ClipLoader", "EvalLoader", "EvalViews", "LoaderSource", "Views"]

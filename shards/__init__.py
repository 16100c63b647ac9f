"""What lies on disk and how it gets there: ingest, pack, manifest, lint, preview, demo corpora."""

from typing import TYPE_CHECKING, Any

from understudy.shards.errors import UserError

if TYPE_CHECKING:
    from understudy.shards.corpus import Corpus
    from understudy.shards.manifest import Manifest

__all__ = ["Corpus", "Manifest", "UserError"]


def __getattr__(name: str) -> Any:
    """Imports what opens corpora, and NumPy with it, when it is asked for: the command line answers without."""
    if name in ("Corpus", "Manifest"):
        from understudy.shards import corpus

        return getattr(corpus, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What lies on disk and how it gets there: ingest, pack, manifest, lint, preview, demo corpora."""

from understudy.shards.errors import UserError
from understudy.shards.manifest import Corpus, Manifest

__all__ = ["Corpus", "Manifest", "UserError"]

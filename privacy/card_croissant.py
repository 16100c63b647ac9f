"""croissant.json: the corpus in the MLCommons Croissant format, version 1.0, valid against mlcroissant's checker.

And clips.csv, the table of clips that it points to: mlcroissant 1.1 reads tables, and whole files out of tars, but no
JSON out of tars and no zstandard, so it can get a label neither from KEY.json nor from samples.jsonl.zst.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from understudy.privacy.card import Facts, audit_lines
from understudy.shards.corpus import Corpus
from understudy.shards.manifest import SAMPLES

# The context that Croissant 1.0 prescribes: which words of ours are whose.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TABLE = "clips.csv"
# Columns of TABLE, with the types that they have.
_COLUMNS = {
    "key": ("sc:Text", "Name of the clip's files in its shard, without the extension."),
    "label": ("sc:Integer", "Number of the class, in the order of `classes` in manifest.json."),
    "frames": ("sc:Integer", "Stored frames."),
    "width": ("sc:Integer", "Of a frame in pixels."),
    "height": ("sc:Integer", "Of a frame in pixels."),
    "duration": ("sc:Float", "Seconds."),
}
# By codec: extension of the file with a clip's frames, its media type, and how they lie in it.
_VIDEO = {
    "mjpeg": ("mjpg", "video/x-motion-jpeg", "The frames of a clip: baseline JPEGs end to end; KEY.off says where."),
    "h264": ("mp4", "video/mp4", "The frames of a clip: H.264 without sound."),
}


def clip_table(corpus: Corpus) -> bytes:
    """The content of TABLE."""
    columns = (corpus.keys, corpus.label, corpus.frames, corpus.width, corpus.height)
    rows = (f"{k},{n},{f},{w},{h},{f / corpus.manifest.fps}" for k, n, f, w, h in zip(*columns))
    return "\n".join([",".join(_COLUMNS), *rows, ""]).encode()


def croissant(facts: Facts, table: bytes, *, url: str, creator: str, date: str) -> dict[str, Any]:
    """The JSON of croissant.json. `table` is the content of TABLE, `url` the corpus's page, `date` of its publication,
    YYYY-MM-DD.
    """
    manifest = facts.manifest
    extension, media_type, what = _VIDEO[manifest.codec]
    inside = [{"@id": shard.url} for shard in manifest.shards]
    files = [
        *(_file(shard.url, shard.filesize, shard.sha256, "application/x-tar") for shard in manifest.shards),
        _file(SAMPLES, manifest.samples_filesize, manifest.samples_sha256, "application/zstd"),
        _file(TABLE, len(table), hashlib.sha256(table).hexdigest(), "text/csv"),
    ]
    videos = {
        "@type": "cr:FileSet",
        "@id": "video-files",
        "name": "video-files",
        "description": what,
        "containedIn": inside if len(inside) > 1 else inside[0],
        "encodingFormat": media_type,
        "includes": f"*.{extension}",
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": re.sub("[^A-Za-z0-9_-]", "-", manifest.name),
        "description": (
            f"{manifest.nsamples} clips of {len(manifest.classes)} classes, kind {manifest.kind}, "
            f"{manifest.frames} frames at {manifest.fps:g} a second. Manifest digest {manifest.digest}."
        ),
        "url": url,
        "license": manifest.licence,
        "creator": {"@type": "sc:Organization", "name": creator},
        "datePublished": date,
        # Versions are told apart by the digest; the number says which format they are in.
        "version": "1.0.0",
        "citeAs": f"{creator}: {manifest.name}, {date}, {url}",
        "rai:personalSensitiveInformation": " ".join(audit_lines(facts)),
        "distribution": [*files, videos],
        "recordSet": [_clips(), _videos(what)],
    }


def _file(name: str, size: int, sha256: str, media_type: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": media_type,
        "sha256": sha256,
    }


def _clips() -> dict[str, Any]:
    table = {"fileObject": {"@id": TABLE}}
    fields = [
        _field("clips", name, kind, description, {**table, "extract": {"column": name}})
        for name, (kind, description) in _COLUMNS.items()
    ]
    return _record_set("clips", "What is known of each clip.", fields)


def _videos(what: str) -> dict[str, Any]:
    """The clips with their frames. Apart from the table, so that whoever wants only that fetches no shard."""
    files = {"fileSet": {"@id": "video-files"}}
    # mlcroissant applies this twice when it joins, so it has to leave a bare key as it is.
    key = {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([^.]+)"}}
    fields = [
        {**_field("videos", "key", *_COLUMNS["key"], key), "references": {"field": {"@id": "clips/key"}}},
        _field("videos", "label", *_COLUMNS["label"], {"field": {"@id": "clips/label"}}),
        _field("videos", "content", "sc:VideoObject", what, {**files, "extract": {"fileProperty": "content"}}),
    ]
    return _record_set("videos", "The clips with their frames.", fields)


def _record_set(name: str, description: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, "field": fields}


def _field(record_set: str, name: str, kind: str, description: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
        "source": source,
    }

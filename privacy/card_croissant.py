"""croissant.json: the corpus in the MLCommons Croissant format, version 1.0, valid against mlcroissant's checker."""

from __future__ import annotations

import re
from typing import Any

from understudy.privacy.card import Facts, audit_lines
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
# Fields of KEY.json, with the types that they have.
_FIELDS = {
    "label": ("sc:Integer", "Number of the class, in the order of `classes` in manifest.json."),
    "frames": ("sc:Integer", "Stored frames."),
    "fps": ("sc:Float", "Frames a second."),
    "duration": ("sc:Float", "Seconds."),
    "kind": ("sc:Text", "no-human, synthetic or real."),
}


def croissant(facts: Facts, *, url: str, creator: str, date: str) -> dict[str, Any]:
    """The JSON of croissant.json. `url` is the corpus's page, `date` of its publication, YYYY-MM-DD."""
    manifest = facts.manifest
    shards = [
        {
            "@type": "cr:FileObject",
            "@id": shard.url,
            "name": shard.url,
            "contentUrl": shard.url,
            "contentSize": f"{shard.filesize} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in manifest.shards
    ]
    table = {
        "@type": "cr:FileObject",
        "@id": SAMPLES,
        "name": SAMPLES,
        "description": "A row a sample: where it lies in the shards, and its checksum.",
        "contentUrl": SAMPLES,
        "contentSize": f"{manifest.samples_filesize} B",
        "encodingFormat": "application/zstd",
        "sha256": manifest.samples_sha256,
    }
    inside = [{"@id": shard.url} for shard in manifest.shards]
    sidecars = {
        "@type": "cr:FileSet",
        "@id": "sidecars",
        "name": "sidecars",
        "description": "KEY.json beside each clip.",
        "containedIn": inside if len(inside) > 1 else inside[0],
        "encodingFormat": "application/json",
        "includes": "*.json",
    }
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"clips/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {"fileSet": {"@id": "sidecars"}, "extract": {"jsonPath": f"$.{name}"}},
        }
        for name, (kind, description) in _FIELDS.items()
    ]
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
        "distribution": [*shards, table, sidecars],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "clips",
                "name": "clips",
                "description": "What KEY.json says of each clip. The pictures are beside it, in KEY.mjpg or KEY.mp4.",
                "field": fields,
            }
        ],
    }

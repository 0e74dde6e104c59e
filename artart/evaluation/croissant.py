"""A description of a dataset for machines: Croissant 1.0, in JSON-LD.

Source: MLCommons, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

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
TABLE = "attribution.csv"


def croissant(name: str, columns: Sequence[str], sha256: str) -> dict[str, Any]:
    """The description of a table of images, TABLE, beside the folder of this file; the images are not published."""
    table = {
        "@type": "cr:FileObject",
        "@id": TABLE,
        "name": TABLE,
        "description": "a row of each image: where it lay, its SHA-256, and what its collection says of it",
        "contentUrl": f"../{TABLE}",
        "encodingFormat": "text/csv",
        "sha256": sha256,
    }
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": column,
            "description": f"the column {column}",
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": TABLE}, "extract": {"column": column}},
        }
        for column in columns
    ]
    images = {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": f"The images of {name} that a network was trained on, with their sources and licences.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "datePublished": f"{date.today()}",
        "version": "1.0.0",
        "license": "each image has its own; see the column licence",
        "distribution": [table],
        "recordSet": [images],
    }

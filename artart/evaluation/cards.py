"""A folder to publish a network with: weights, model card, dataset card with Croissant, sources of the images."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from torch import Tensor

from artart import ArtError, __version__
from artart.checkpoints.load import Loaded
from artart.checkpoints.safetensors import to_share, weights_of
from artart.config.paths import SHARED
from artart.data.datamodule import ArtDataModule
from artart.data.dataset import used
from artart.data.embeddings import Embeddings
from artart.data.labels import CLASS
from artart.data.report import make_report
from artart.evaluation.report import interval
from artart.evaluation.sample_report import DISTANCES, DIVERSITY
from artart.io import weights
from artart.io.files import as_csv, write_json
from artart.io.images import grid, save
from artart.io.provenance import ImageProvenance
from artart.io.terminal import printable

METRICS = {**DISTANCES, **{key: name for key, (name, _) in DIVERSITY.items()}}
METRICS |= {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS"}
NO_DERIVATIVES = re.compile(r"(?<![A-Za-z])ND(?![A-Za-z])|no.?deriv|all rights reserved", re.IGNORECASE)
NOT_COMMERCIAL = re.compile(r"(?<![A-Za-z])NC(?![A-Za-z])|non.?commercial", re.IGNORECASE)
IN_ROW = 8  # samples
PARTS = Path(__file__).parent


class Sources(NamedTuple):
    """The training and held-out images, as a table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def licences(self) -> dict[str, int]:
        """How many images have each licence, the most frequent first; "" is unknown."""
        if "licence" not in self.columns:
            return {"": len(self.rows)} if self.rows else {}
        return dict(Counter(row[self.columns.index("licence")] for row in self.rows).most_common())

    @property
    def warnings(self) -> list[str]:
        """Sentences on licences that may forbid what a network is, or are unknown."""
        found = self.licences
        kinds = (
            ("forbids derivatives", [name for name in found if NO_DERIVATIVES.search(name)]),
            ("forbids commercial use", [name for name in found if NOT_COMMERCIAL.search(name)]),
            ("is unknown", [name for name in found if not name]),
        )
        return [
            f"The licence of {sum(found[name] for name in names):,} of {len(self.rows):,} images {what}"
            + (f": {', '.join(names[:3])}." if any(names) else ".")
            for what, names in kinds
            if names
        ]


def sources_of(data: ArtDataModule) -> Sources:
    """A row of each image that is used: path, SHA-256, side of the split, and the cells of the table."""
    folder = data.folder
    if folder is None:
        return Sources(["path"], [])
    table = folder.metadata
    columns = [CLASS, *(name for name in (table.columns if table else ()) if name not in ("path", CLASS))]
    side = dict.fromkeys(data.train_ids, "train") | dict.fromkeys(data.val_ids, "held out")
    sides = {digest: side[row] for row, digest in enumerate(data.images.digests)}
    rows = [
        [
            one.path,
            one.facts.sha256,
            sides[one.facts.sha256],
            *(folder.name_of(folder.root / one.path, name) for name in columns),
        ]
        for one in sorted(used(data.entries), key=lambda one: one.path)
    ]
    return Sources(["path", "sha256", "split", *columns], rows)


def read_evaluation(folder: str | None, loaded: Loaded) -> dict[str, Any]:
    """metrics.json of a folder that artart.evaluate wrote; {} for None.

    Raises ArtError if it is missing or of another checkpoint.
    """
    if folder is None:
        return {}
    try:
        metrics = json.loads(Path(folder, "metrics.json").read_bytes())
        its = metrics["checkpoint_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtError(f"evaluation={folder}: holds no metrics.json of artart.evaluate") from None
    if its != loaded.sha256:
        raise ArtError(f"evaluation={folder}: is of another checkpoint; evaluate {loaded.path}")
    return metrics


def write(
    out: Path, loaded: Loaded, data: ArtDataModule, licence: str, metrics: Mapping[str, Any], samples: Tensor | None
) -> list[str]:
    """Write everything into a new folder; returns `Sources.warnings`.

    `samples` of the network, (N, 3, S, S) in [-1, 1]; None: it makes none.
    """
    facts, sources = to_share(loaded), sources_of(data)
    table = as_csv(sources.columns, sources.rows)
    weights.save_shared(out / SHARED, weights_of(loaded), facts)
    (out / "attribution.csv").write_bytes(table)
    if samples is not None:
        made = ImageProvenance("trained", {"checkpoint": loaded.sha256})
        save(grid(samples.split(IN_ROW)), out / "samples.png", made)
    name = data.folder.root.name if data.folder else "demo art"
    (out / "dataset").mkdir()
    described = _croissant(name, sources.columns, sha256(table).hexdigest())
    write_json(out / "dataset" / "croissant.json", described)
    shown = {
        "name": out.resolve().name,
        "dataset": name,
        "facts": facts,
        "licences": sources.licences,
        "warnings": sources.warnings,
        "metrics": metrics,
        "measures": {
            title: {"value": one.get("value", one.get("mean")), "interval": interval(one["low"], one["high"], ".4g")}
            for key, title in METRICS.items()
            if (one := metrics.get(key))
        },
        "report": make_report(data, "") if data.folder else None,
        "can_sample": samples is not None,
        "kind": "gan" if loaded.objective.one_step else "autoencoder" if samples is None else "diffusion",
        "num_parameters": sum(one.numel() for one in loaded.net.parameters()),
        "takes_prompts": loaded.text is not None,
        "knows": _knows(loaded) if samples is not None else "",
        "version": __version__,
    }
    environment = jinja2.Environment(  # noqa: S701 - Markdown, in which `plain` escapes
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    shown["head"] = yaml.safe_dump(_head(licence, shown), sort_keys=False, allow_unicode=True)
    for template, place in (("model_card.md", out / "README.md"), ("dataset_card.md", out / "dataset" / "README.md")):
        text = environment.from_string((PARTS / template).read_text(encoding="utf-8")).render(shown)
        place.write_text(text, encoding="utf-8", errors="backslashreplace")
    return sources.warnings


def _knows(loaded: Loaded) -> str:
    """What a network can be asked for."""
    if isinstance(loaded.text, Embeddings):  # of an encoder that knows more words than the captions have
        return ""
    return f"It knows {'the words of its captions' if loaded.text else 'its labels'} and no others."


def _croissant(name: str, columns: Sequence[str], sha256: str) -> dict[str, Any]:
    """A description for machines of the table of images, beside the folder of this file: Croissant 1.0, in JSON-LD.

    Source: MLCommons, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
    """
    content = json.loads((PARTS / "croissant.json").read_bytes())
    (table,), (images,) = content["distribution"], content["recordSet"]
    content["name"], content["datePublished"], table["sha256"] = name, f"{date.today()}", sha256
    content["description"] = f"The images of {name} that a network was trained on, with their sources and licences."
    images["field"] = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": column,
            "description": f"the column {column}",
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": table["@id"]}, "extract": {"column": column}},
        }
        for column in columns
    ]
    return content


def plain(text: str) -> str:
    """A text of others in a line or a cell of Markdown."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", printable(text)).replace("<", "&lt;")


def _head(licence: str, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML head of a model card.

    Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata.
    """
    task = "text-to-image" if shown["takes_prompts"] else "unconditional-image-generation"
    task = task if shown["can_sample"] else "image-to-image"
    measured = [
        {"type": name.lower().replace(", ", "_"), "name": name, "value": value["value"]}
        for name, value in shown["measures"].items()
    ]
    data = {"name": shown["dataset"], "type": "imagefolder"}
    results = [{"task": {"type": task}, "dataset": data, "metrics": measured}] if measured else []
    return {
        "license": licence,
        "library_name": "artart",
        "pipeline_tag": task,
        "tags": ["art", "artart", shown["kind"]],
        **({"model-index": [{"name": shown["name"], "results": results}]} if results else {}),
    }

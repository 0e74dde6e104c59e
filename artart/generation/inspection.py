"""What an image file tells of its origin, and whether a registry has it."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from rich.filesize import decimal

from artart import ArtError
from artart.data.decode import MAX_PIXELS, TooLarge, decode, open_header
from artart.generation.registry import Entries, Match
from artart.io import signing
from artart.io.files import sha256
from artart.io.provenance import provenance_of, texts_of
from artart.io.terminal import printable

ABOUT_SIGNERS = ("signingCredential.", "timeStamp.")  # begin C2PA's codes for a certificate that expired or is unknown


def is_image(path: Path) -> bool:
    """Whether a file is an image of a format that artart reads."""
    try:
        with open_header(path):
            return True
    except (TooLarge, Image.DecompressionBombError):
        return True
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything on damaged bytes
        return False


def describe_image(path: Path, registry: Entries | None) -> dict[str, Any]:
    """The metadata, the signed manifests and the registry's entry of an image, as plain data.

    Of one that cannot be decoded they are what is left of them.

    Raises ArtError if it cannot be opened without much memory.
    """
    damage = _damage(path)
    try:
        opened = open_header(path)
    except (TooLarge, Image.DecompressionBombError) as error:
        raise ArtError(f"files: {path}: too large ({error}); give another") from None
    with path.open("rb") as file, opened as image:
        with suppress(Exception):  # some formats have metadata after the pixels
            if image.width * image.height <= MAX_PIXELS:
                image.load()
        origin, texts = provenance_of(image, file), texts_of(image)
    match = registry.find(path.read_bytes()) if registry and not damage else None
    signed: str | dict[str, Any] = "not read: pip install 'artart[provenance]'"
    if find_spec("c2pa"):
        try:
            signed = signing.read_credentials(path) or "not signed"
        except ArtError as error:
            signed = str(error)
    return {
        "file": str(path),
        "format": f"{image.format}, {image.width} x {image.height}, {decimal(path.stat().st_size)}",
        "sha256": sha256(path),
        **({"cannot be decoded": damage} if damage else {}),
        "source": origin.source or "not stated",
        "opt-out": origin.opt_out or "none",
        **{name: printable(text) for name, text in texts.items()},
        "c2pa": signed,
        "registry": _registered(match) if registry else "there is none",
        "changed": _changed(signed, match),
    }


def _damage(path: Path) -> str:
    """Why an image cannot be decoded; "" if it can."""
    try:
        decode(path)
        return ""
    except Exception as error:  # noqa: BLE001 - as above
        return printable(error)


def _registered(match: Match | None) -> str | dict[str, Any]:
    if match is None:
        return "neither it nor an image that it is a near copy of"
    relation = (
        "this file" if match.is_same else f"an image that it is a near copy of, squared distance {match.distance:.0f}"
    )
    return {"has": relation, **{key: value for key, value in match.entry.items() if key != "fingerprint"}}


def _changed(signed: str | dict[str, Any], match: Match | None) -> str:
    """Whether the file is as it was written, as far as that can be known."""
    if isinstance(signed, dict):
        of_content = [one for one in signed["problems"] if not one.startswith(ABOUT_SIGNERS)]
        return "since it was signed" if of_content else "not since it was signed"
    if match is not None:
        return "not since it was generated" if match.is_same else "since it was generated"
    return "unknown"

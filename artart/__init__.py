"""artart trains image generators on folders of art.

`artart.load(checkpoint)` gives a Model that makes images; `artart.save_image` writes them with their provenance.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artart.generation.model import Model, load
    from artart.io.images import save_image

    __version__: str

__all__ = ["ArtError", "Model", "__version__", "load", "save_image"]


class ArtError(ValueError):
    """A user's mistake: the message is one line with key, value and remedy, and is shown without a traceback."""


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: commands report simple mistakes without it."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("artart")
    if name in ("Model", "load"):
        return getattr(import_module("artart.generation.model"), name)
    if name == "save_image":
        return import_module("artart.io.images").save_image
    raise AttributeError(f"module 'artart' has no attribute {name!r}")

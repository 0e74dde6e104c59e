"""artart teaches networks to make art."""

from importlib.metadata import version

__version__ = version("artart")


class ArtError(ValueError):
    """A mistake that a person can mend: the message names key, value and remedy, and is shown without a trace."""

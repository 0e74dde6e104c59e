"""The classes and functions that `_target_` in settings names."""

import inspect
import pkgutil
from collections.abc import Collection
from typing import Any

from artart import ArtError
from artart.config.build import join_words

TRUSTED = ("artart", "lightning", "torch", "torchmetrics")  # packages whose classes settings may name


def target_of(name: str, trusted: Collection[str] = ()) -> Any:
    """What a full name such as torch.optim.Adam stands for; `trusted` are names outside of TRUSTED that are allowed.

    Raises ArtError if it is not allowed, or cannot be imported.
    """
    foreign = ArtError(f"is no class of {join_words(TRUSTED)}; if you trust it: trusted_classes=[{name}]")
    if name not in trusted and name.partition(".")[0] not in TRUSTED:
        raise foreign
    try:
        target = pkgutil.resolve_name(name)
    except Exception as error:  # noqa: BLE001 - a user's module can raise anything
        raise ArtError(f"cannot be imported ({' '.join(str(error).split())})") from None
    package = str(getattr(target, "__module__", None)).partition(".")[0]  # torch.os.system leads out of torch
    if name not in trusted and package != "artart" and not (package in TRUSTED and inspect.isclass(target)):
        raise foreign
    return target

"""The classes and functions that `_target_` in settings names."""

import inspect
import pkgutil
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

from artart import ArtError
from artart.config.build import join_words

TRUSTED = ("artart", "lightning", "torch", "torchmetrics")  # packages whose classes settings may name

KINDS = {  # base classes of the parts of a run, by full name, since few commands import them; * is one member
    "callbacks.*": "lightning.pytorch.callbacks.callback.Callback",
    "data": "artart.data.datamodule.ArtDataModule",
    "logger.*": "lightning.pytorch.loggers.logger.Logger",
    "model": "torch.nn.modules.module.Module",
    "optimizer": "torch.optim.optimizer.Optimizer",
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
}


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


def check_kind(key: str, target: Any, is_partial: bool) -> None:
    """Raises ArtError if a class makes another kind of object than the part of a run named `key` must be.

    Of a function nothing is known.
    """
    base = next((KINDS[place] for place in KINDS if fnmatch(key, place) and key.count(".") == place.count(".")), None)
    if base is None or not inspect.isclass(target):
        return
    if base not in [f"{one.__module__}.{one.__qualname__}" for one in target.__mro__]:
        raise ArtError(f"is no {base.rpartition('.')[2]} ({base})")
    if is_partial and key != "optimizer":
        raise ArtError("must be complete; leave out _partial_")

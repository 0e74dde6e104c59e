"""last.ckpt, from which a run resumes."""

import logging
import math
import shutil
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed
from torch.distributed import ReduceOp

from artart.config.paths import LAST, PREVIOUS
from artart.io.files import patiently
from artart.io.images import Batch
from artart.io.ranges import Positive
from artart.training.callbacks.checkpoints import AtomicCheckpointIO

log = logging.getLogger(__name__)

A_MOMENT = 1.0  # seconds
MIN_INTERVAL = 1.0  # minutes between saves that neither a signal nor the end of training asks for
SAVE = 1  # a request of a process, as are the numbers of signals, which are higher


class LastCheckpoint(Checkpoint):
    """Saves last.ckpt after epochs, before validations, every few minutes, and when training ends or is stopped.

    Of epochs and validations that take less than a minute, not each is saved. Ctrl-C (SIGINT) and SIGTERM stop
    training after the current step, and validation at once if it was saved before it, else at its end; several
    processes stop after the next step, so that none waits in each step for the others. A second signal stops training
    at once in any case. Weights after a NaN or another error are not saved. The file before the newest is kept as
    previous.ckpt, since only the next loss shows whether weights are good.
    """

    def __init__(self, dirpath: str | Path, train_time_interval: Positive | None = 10) -> None:
        """`train_time_interval`: minutes (Lightning's is a timedelta) between saves within an epoch; None: none."""
        self.path = Path(dirpath, LAST)
        self.saved_step = -1
        self.train_time_interval = train_time_interval or math.inf
        self.step, self.is_between_steps = 0, True  # False while gradients are accumulated
        self.saved_at, self.validated_at = 0.0, -math.inf  # on the clock
        self.signal, self.signal_at = 0, 0.0  # the first signal, and when it came
        self.asked: tuple[Tensor, Any] | None = None  # the highest request of the last step, once work on it has ended
        self.is_own = False  # whether a checkpoint that is being saved is last.ckpt
        self.may_break = False  # whether a resumed run repeats everything since the last save
        self.points: dict[str, float] = {}  # of the curves, at a step saved within an epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers of Lightning, which restores the original ones when training ends."""
        self.step = self.saved_step = trainer.global_step
        self.saved_at = time.monotonic()
        for logger in trainer.loggers if self.points else []:
            logger.log_metrics(self.points, self.step - 1)
        self.points = {}
        epoch_loop: Any = trainer.fit_loop.epoch_loop
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # of Lightning's handler; it would wait in each step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = time.monotonic() - self.signal_at > A_MOMENT  # a terminal and torchrun may both send the same signal
        if (self.may_break and not AtomicCheckpointIO.is_saving) or (self.signal and again):
            self._stop(number)
        if self.signal:
            return
        self.signal, self.signal_at = number, time.monotonic()
        name = signal.Signals(number).name
        log.warning("%s: stopping after this step or validation; send it again to stop at once", name)

    def _stop(self, number: int) -> None:
        self.signal = number
        raise KeyboardInterrupt if number == signal.SIGINT else SIGTERMException

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.may_break = False  # a validation within an epoch is over

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.is_between_steps, self.step = trainer.global_step > self.step, trainer.global_step
        saves_soon = trainer.is_last_batch or trainer.should_stop or self._is_before_validation(trainer, batch_idx)
        if not self.is_between_steps or saves_soon:
            return  # validation or the end of the epoch saves
        if request := self._request(trainer, _minutes_since(self.saved_at) > self.train_time_interval, late=True):
            self.points = self._points(trainer)
            self._save(trainer)
            self.points = {}
        if request > SAVE:
            self._stop(request)

    def _is_before_validation(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether a validation within the epoch follows (trainer.val_check_interval)."""
        every = trainer.check_val_every_n_epoch
        index = trainer.fit_loop.total_batch_idx if every is None else batch_idx
        in_this_epoch = trainer.enable_validation and (trainer.current_epoch + 1) % (every or 1) == 0
        return in_this_epoch and (index + 1) % (trainer.val_check_batch or float("inf")) == 0

    def _request(self, trainer: Trainer, is_due: bool, late: bool = False) -> int:
        """The highest request of all processes: a signal's number, SAVE where one `is_due`, or 0.

        `late`: of several processes that of the step before, for which none waits.
        """
        own = self.signal or SAVE * is_due
        if trainer.world_size == 1:
            return own
        highest = torch.full((), own)  # on the CPU
        before, self.asked = self.asked, (highest, distributed.all_reduce(highest, ReduceOp.MAX, async_op=True))
        if (asked := before if late else self.asked) is None:
            return 0
        highest, work = asked
        work.wait()
        return int(highest.numpy())

    def _points(self, trainer: Trainer) -> dict[str, float]:
        """What Lightning will log of this step, after the callbacks."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return {}
        logged = trainer.logged_metrics.items()
        of_step = {name: float(value) for name, value in logged if name.startswith(("train/", "images_per_second"))}
        return of_step | {"epoch": trainer.current_epoch}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, since validation may take long and can be interrupted; but not before each of many short ones."""
        if trainer.sanity_checking or not self.is_between_steps:
            return
        is_due = _minutes_since(min(self.saved_at, self.validated_at)) >= MIN_INTERVAL
        self.validated_at = time.monotonic()
        is_saved = self._save_if_due(trainer, is_due)
        self.may_break = is_saved and trainer.world_size == 1  # several processes stop together, at the epoch's end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.may_break = False
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self._save_if_due(trainer, is_last or _minutes_since(self.saved_at) >= MIN_INTERVAL)

    def _save_if_due(self, trainer: Trainer, is_due: bool) -> bool:
        """Save if one of all processes finds it due or was asked to stop, and stop then; False if nothing was saved."""
        if request := self._request(trainer, is_due):
            self._save(trainer)
        if request > SAVE:
            self._stop(request)
        return request > 0

    def _save(self, trainer: Trainer) -> None:
        self.is_own, self.asked = True, None
        trainer.save_checkpoint(self.path)
        self.is_own = False
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()

    def newest_good(self, step: int) -> Path | None:
        """The newest file whose weights are known to be good, if those after `step` are not."""
        found = self.path.with_name(PREVIOUS) if self.saved_step == step else self.path
        return found if found.is_file() else None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add points that are not logged yet; mark for Lightning that a validation has begun.

        The file before is kept here, since callbacks that come earlier may refuse to save the weights.
        """
        if self.is_own and trainer.is_global_zero and self.path.is_file() and trainer.global_step != self.saved_step:
            previous = self.path.with_name(PREVIOUS)
            patiently(lambda: previous.unlink(missing_ok=True))
            try:
                previous.hardlink_to(self.path)  # which is then replaced, not overwritten
            except OSError:  # a file system without links
                shutil.copyfile(self.path, previous)
        checkpoint["points"] = self.points
        if trainer.validating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
            progress.update(ready=1, started=1, processed=0, completed=0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.points = checkpoint.get("points", {})


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60

import gc
import itertools
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from artart.data.loader import Loader
from artart.data.vocabulary import tokens_of, train
from artart.io.images import Batch, to_pixels

SIZE = 8
NUM_CLASSES = 3
PIXELS = torch.tensor(np.random.default_rng(0).integers(0, 256, (64, 3, SIZE, SIZE), np.uint8))
IDS = torch.tensor(np.random.default_rng(1).permutation(64)[:53])  # a set is some of the rows, in any order
LABELS = (IDS % (NUM_CLASSES + 1))[:, None]  # 3 stands for "no class"


def loader(batch_size: int = 4, **options: Any) -> Loader:
    """Trains, unless said otherwise, on the 53 images above."""
    options = {"pixels": PIXELS, "labels": LABELS, "ids": IDS, "shuffle": True, **options}
    return Loader(batch_size=batch_size, **options)


def epoch_of(loader: Loader, epoch: int = 0) -> list[Batch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


Seen = tuple[int, bool]  # a row of PIXELS, and whether it was flipped

ROWS: dict[bytes, Seen] = {
    pixels.numpy().tobytes(): (row, flipped)
    for flipped in (False, True)
    for row, pixels in enumerate(PIXELS.flip(-1) if flipped else PIXELS)
}


def seen(batches: Iterable[Batch]) -> list[Seen]:
    """Which images these are, by their content."""
    return [ROWS[pixels.numpy().tobytes()] for batch in batches for pixels in to_pixels(batch.x0).contiguous()]


def rows_of(batches: Iterable[Batch]) -> list[int]:
    return [row for row, _ in seen(batches)]


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    for batch, other in zip(batches, expected, strict=True):
        assert_close(batch.x0.cpu(), other.x0, rtol=0, atol=0)
        assert_close(batch.y.cpu(), other.y, rtol=0, atol=0)


# --- a batch


@pytest.mark.parametrize(
    "options", [{}, {"random_flip": True}, {"class_balanced": True}, {"random_flip": True, "class_balanced": True}]
)
def test_a_batch_is_its_images_in_the_models_range_with_their_labels(options: dict[str, bool]) -> None:
    label_of = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))
    for batch in epoch_of(loader(**options)):
        images = [PIXELS[row].flip(-1) if flipped else PIXELS[row] for row, flipped in seen([batch])]
        assert_close(batch.x0, torch.stack(images) / 127.5 - 1, rtol=0, atol=1e-6, check_stride=False)
        assert batch.y.tolist() == [label_of[row] for row in rows_of([batch])]


@pytest.mark.parametrize("options", [{"random_flip": True}, {"shuffle": False}])
def test_a_batch_is_what_the_network_wants(options: dict[str, bool]) -> None:
    for x0, y in epoch_of(loader(4, **options))[:-1]:
        assert (x0.dtype, x0.shape) == (torch.float32, (4, 3, SIZE, SIZE))
        assert x0.is_contiguous(memory_format=torch.channels_last)
        assert -1 <= x0.min() < -0.9 < 0.9 < x0.max() <= 1
        assert (y.dtype, y.shape) == (torch.int64, (4, 1))


def test_a_memory_map_serves_the_same_and_keeps_its_bytes(tmp_path: Path) -> None:
    PIXELS.numpy().tofile(tmp_path / "pixels")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "c", shape=tuple(PIXELS.shape))
    batches = epoch_of(loader(pixels=torch.from_numpy(mapped), random_flip=True))
    assert_same(batches, epoch_of(loader(random_flip=True)))
    for batch in batches:
        batch.x0.zero_()
        batch.y.zero_()
    assert_close(torch.from_numpy(mapped), PIXELS, rtol=0, atol=0)
    assert_same(epoch_of(loader(shuffle=False)), epoch_of(loader(pixels=torch.from_numpy(mapped), shuffle=False)))
    assert (tmp_path / "pixels").read_bytes() == PIXELS.numpy().tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("lies_on", ["cpu", "cuda"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_serves_what_the_cpu_serves(lies_on: str, device: str) -> None:
    for options in ({"random_flip": True, "class_balanced": True}, {"shuffle": False}):
        batches = epoch_of(loader(pixels=PIXELS.to(lies_on), device=device, **options))
        assert {tensor.device.type for batch in batches for tensor in batch} == {device}
        assert all(batch.x0.is_contiguous(memory_format=torch.channels_last) for batch in batches)
        for batch, other in zip(batches, epoch_of(loader(**options)), strict=True):
            assert_close(batch.x0.cpu(), other.x0, rtol=0, atol=1e-6)
            assert_close(batch.y.cpu(), other.y, rtol=0, atol=0)


# --- the order of training


def test_an_epoch_holds_every_image_once_but_for_those_left_over() -> None:
    for epoch in range(3):
        rows = rows_of(epoch_of(loader(4), epoch))
        assert len(rows) == len(set(rows)) == 52
        assert set(rows) < set(IDS.tolist())
    assert sorted(rows_of(epoch_of(loader(53)))) == sorted(IDS.tolist())


def test_all_batches_of_training_are_full_and_counted() -> None:
    for batch_size in (1, 4, 26, 27, 52, 53):
        batches = epoch_of(loader(batch_size))
        assert {len(batch.x0) for batch in batches} == {batch_size}
        assert len(batches) == len(loader(batch_size)) == 53 // batch_size


@pytest.mark.parametrize("class_balanced", [False, True])
def test_an_epoch_is_a_function_of_seed_and_epoch(class_balanced: bool) -> None:
    keys = list(itertools.product(range(3), range(3)))
    epochs = {
        key: seen(epoch_of(loader(seed=key[0], random_flip=True, class_balanced=class_balanced), key[1]))
        for key in keys
    }
    for one, other in itertools.combinations(keys, 2):
        assert [row for row, _ in epochs[one]] != [row for row, _ in epochs[other]]
        assert [flipped for _, flipped in epochs[one]] != [flipped for _, flipped in epochs[other]]
    torch.manual_seed(5)
    np.random.seed(5)
    again = loader(seed=1, random_flip=True, class_balanced=class_balanced)
    for epoch in (2, 0, 1, 1):
        assert seen(epoch_of(again, epoch)) == epochs[1, epoch]


def test_iterating_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    epoch_of(loader(random_flip=True, class_balanced=True))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


@pytest.mark.parametrize("class_balanced", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_batch_size_changes_neither_order_nor_flips(batch_size: int, class_balanced: bool) -> None:
    whole = seen(epoch_of(loader(1, random_flip=True, class_balanced=class_balanced), 3))
    batches = epoch_of(loader(batch_size, random_flip=True, class_balanced=class_balanced), 3)
    assert seen(batches) == whole[: 53 // batch_size * batch_size]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_serve_the_batches_of_one_process(world_size: int) -> None:
    options: dict[str, Any] = {"random_flip": True, "class_balanced": True, "seed": 2}
    ranks = [epoch_of(loader(3, rank=rank, world_size=world_size, **options), 1) for rank in range(world_size)]
    together = [
        Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True))) for batches in zip(*ranks, strict=True)
    ]
    assert_same(together, epoch_of(loader(3 * world_size, **options), 1))
    assert {len(batch.x0) for rank in ranks for batch in rank} == {3}


# --- flips


def test_half_of_the_images_are_flipped_anew_in_each_epoch() -> None:
    epochs = [dict(seen(epoch_of(loader(1, random_flip=True), epoch))) for epoch in range(40)]
    times = torch.tensor([[epoch[row] for epoch in epochs] for row in IDS.tolist()]).double().mean(1)
    assert times.mean() == pytest.approx(0.5, abs=5 * 0.5 / (40 * 53) ** 0.5)
    assert times.std() == pytest.approx(0.5 / 40**0.5, rel=0.4)


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "class_balanced": True}, {"shuffle": False}])
def test_nothing_is_flipped_unless_asked_for(options: dict[str, bool]) -> None:
    assert not any(flipped for _, flipped in seen(epoch_of(loader(**options))))


# --- class_balanced


@pytest.mark.slow
def test_balance_draws_classes_alike_and_within_a_class_its_images() -> None:
    sizes = {0: 2, 1: 40, 3: 10, 7: 1}  # 7 stands for "no class"; classes 2, 4, 5 and 6 have no image
    labels = torch.tensor([label for label, size in sizes.items() for _ in range(size)])
    labels = labels[torch.tensor(np.random.default_rng(3).permutation(53)), None]
    data = loader(1, labels=labels, class_balanced=True)
    num_epochs = 100
    counts: Counter[tuple[int, int]] = Counter()
    for epoch in range(num_epochs):
        batches = epoch_of(data, epoch)
        assert len(batches) == 53
        counts.update(zip(rows_of(batches), torch.cat([batch.y[:, 0] for batch in batches]).tolist(), strict=True))
    assert {row for row, _ in counts} == set(IDS.tolist())
    draws = num_epochs * 53
    for label, size in sizes.items():
        drawn = torch.tensor([count for (_, y), count in counts.items() if y == label]).double()
        assert drawn.sum() == pytest.approx(draws / 4, abs=5 * (draws * 0.25 * 0.75) ** 0.5)
        expected = draws / 4 / size
        assert ((drawn - expected) ** 2 / expected).sum() < size + 5 * (2 * size) ** 0.5  # chi-square's mean and spread


def test_of_several_columns_the_first_is_balanced_and_rows_stay_whole() -> None:
    first, second = (torch.arange(53) >= 50).long(), torch.arange(53)
    data = loader(1, labels=torch.stack([first, second], dim=1), class_balanced=True)
    counts = torch.zeros(53)
    for epoch in range(20):
        for batch in epoch_of(data, epoch):
            assert rows_of([batch]) == [int(IDS[batch.y[0, 1]])]
            assert batch.y.tolist() == [[int(first[batch.y[0, 1]]), int(batch.y[0, 1])]]
            counts[batch.y[0, 1]] += 1
    assert counts[50:].sum() / counts.sum() == pytest.approx(0.5, abs=0.08)


# --- the order of validation


@pytest.mark.parametrize("epoch", [0, 5])
def test_validation_keeps_the_order_and_ends_with_a_short_batch(epoch: int) -> None:
    data = loader(10, shuffle=False)
    batches = epoch_of(data, epoch)
    assert rows_of(batches) == IDS.tolist()
    assert torch.cat([batch.y for batch in batches]).tolist() == LABELS.tolist()
    assert [len(batch.x0) for batch in batches] == [10, 10, 10, 10, 10, 3]
    assert len(data) == 6


@pytest.mark.parametrize(("num", "lengths"), [(53, [5, 5, 5, 5]), (50, [5, 5, 4, 4]), (48, [4, 4, 4, 4])])
def test_validation_shows_every_image_on_one_rank(num: int, lengths: list[int]) -> None:
    options: dict[str, Any] = {"ids": IDS[:num], "labels": LABELS[:num], "shuffle": False, "world_size": 4}
    loaders = [loader(3, rank=rank, **options) for rank in range(4)]
    ranks = [list(data) for data in loaders]
    assert [len(batches) for batches in ranks] == [len(data) for data in loaders] == lengths
    in_turn = [batch for batches in itertools.zip_longest(*ranks) for batch in batches if batch is not None]
    assert rows_of(in_turn) == IDS[:num].tolist()
    sizes = [len(batch.x0) for batch in in_turn]
    assert 0 not in sizes
    assert max(sizes[16:], default=1) - min(sizes[16:], default=1) <= 1


def test_an_empty_validation_has_no_batch() -> None:
    data = loader(ids=IDS[:0], labels=LABELS[:0], shuffle=False)
    assert len(data) == len(list(data)) == 0


@pytest.mark.parametrize("option", ["random_flip", "class_balanced"])
def test_validation_neither_mirrors_nor_balances(option: str) -> None:
    with pytest.raises(AssertionError):
        loader(shuffle=False, **{option: True})


# --- iterators


def test_an_epoch_begins_at_the_first_batch_since_lightning_names_it_after_iter() -> None:
    data = loader()
    iterator = iter(data)
    data.sampler.set_epoch(2)
    assert_same(list(iterator), epoch_of(loader(), 2))


def test_iterators_do_not_disturb_each_other() -> None:
    data = loader(random_flip=True)
    expected = epoch_of(loader(random_flip=True), 0), epoch_of(loader(random_flip=True), 1)
    first = iter(data)
    batches = [next(first)]
    data.set_epoch(1)
    second = list(data)
    next(iter(data))  # abandoned
    assert_same([*batches, *first], expected[0])
    assert_same(second, expected[1])


def test_an_abandoned_iterator_holds_nothing() -> None:
    data = loader()
    iterator = iter(data)
    batch = next(iterator)
    pixels, gone = weakref.ref(batch.x0), weakref.ref(data)
    gc.disable()
    try:
        del batch
        assert pixels() is None
        del iterator, data
        assert gone() is None
    finally:
        gc.enable()


# --- state


def test_a_state_resumes_behind_the_batches_handed_out_once() -> None:
    before = loader(random_flip=True)
    before.set_epoch(2)
    handed_out = list(itertools.islice(before, 5))
    state = before.state_dict()
    assert state == {"epoch": 2, "batches": 5, "seed": 0, "images": 53, "global_batch_size": 4}
    expected = epoch_of(loader(random_flip=True), 2)
    after = loader(random_flip=True)
    after.load_state_dict(state)
    assert after.state_dict() == state
    iter(after)  # Lightning's check that it can
    rest = epoch_of(after, 2)
    assert_same(handed_out + rest, expected)
    assert after.state_dict() == {**state, "batches": 13}
    assert_same(epoch_of(after, 2), expected)


def test_a_state_means_nothing_to_other_epochs() -> None:
    for epoch in (1, 3):
        after = loader()
        after.load_state_dict({**after.state_dict(), "epoch": 2, "batches": 5})
        assert_same(epoch_of(after, epoch), epoch_of(loader(), epoch))
        assert_same(epoch_of(after, 2), epoch_of(loader(), 2))


def test_a_state_resumes_with_another_number_of_processes() -> None:
    before = loader(4)
    next(iter(before))
    after = [loader(2, rank=rank, world_size=2) for rank in range(2)]
    for data in after:
        data.load_state_dict(before.state_dict())
    ranks = [seen(data) for data in after]
    assert sorted(ranks[0] + ranks[1]) == sorted(seen(epoch_of(loader(4))[1:]))


# --- Lightning


class StoppedError(Exception):
    pass


class Diary(LightningModule):
    """A network of one weight that notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, list[Seen], list[int]]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trained.append((self.current_epoch, seen([batch]), batch.y.tolist()))
        return (self.weight * batch.x0).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated.append(rows_of([batch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class StopAt(Callback):
    """Writes a checkpoint at the end of a step, and breaks off."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise StoppedError


NUM_STEPS = 6  # of an epoch of 53 images in batches of 8


def fit(*callbacks: Callback, checkpoint: Path | None = None, **options: Any) -> Diary:
    """Three epochs on new loaders."""
    diary = Diary()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    loaders = (
        loader(8, seed=4, random_flip=True, class_balanced=True),
        loader(8, ids=IDS[:12], labels=LABELS[:12], shuffle=False),
    )
    with suppress(StoppedError):
        trainer.fit(diary, *loaders, ckpt_path=checkpoint, weights_only=True)
    return diary


@pytest.fixture(scope="module")
def uninterrupted() -> Diary:
    return fit()


def test_lightning_shows_what_the_loader_serves(uninterrupted: Diary) -> None:
    data = loader(8, seed=4, random_flip=True, class_balanced=True)
    assert uninterrupted.trained == [
        (epoch, seen([batch]), batch.y.tolist()) for epoch in range(3) for batch in epoch_of(data, epoch)
    ]
    sanity_check = uninterrupted.validated[:2]
    assert sanity_check == [IDS[:8].tolist(), IDS[8:12].tolist()]
    assert uninterrupted.validated == sanity_check * 4


@pytest.mark.parametrize("val_check_interval", [1.0, 2])
@pytest.mark.parametrize("step", [1, 5, 6, 9, 12, 17])
def test_a_run_broken_off_within_an_epoch_resumes_with_the_images_to_come(
    step: int, val_check_interval: float, uninterrupted: Diary, tmp_path: Path
) -> None:
    path = tmp_path / "broken_off.ckpt"
    before = fit(StopAt(step, path), val_check_interval=val_check_interval)
    assert before.trained == uninterrupted.trained[:step]
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        after = fit(checkpoint=path, val_check_interval=val_check_interval)
    assert after.trained == uninterrupted.trained[step:]
    assert [str(warning.message) for warning in message if "loader" in str(warning.message)] == []


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("hook", ["train epoch", "validation"])
def test_a_run_resumes_with_the_epoch_after_its_last_one(
    hook: str, epoch: int, uninterrupted: Diary, tmp_path: Path
) -> None:
    fit(
        ModelCheckpoint(
            tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=hook == "train epoch"
        )
    )
    after = fit(checkpoint=tmp_path / f"epoch={epoch}.ckpt")
    assert after.trained == uninterrupted.trained[(epoch + 1) * NUM_STEPS :]


def test_lightning_says_nothing_of_the_loader() -> None:
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        fit()
    assert [str(warning.message) for warning in message if "loader" in str(warning.message)] == []


# --- captions


VOCABULARY = train([f"image {row}" for row in range(64)] + [f"number {row}" for row in range(64)], max_tokens=8)
CAPTIONS = [(f"image {row}", f"number {row}")[: 1 + row % 2] for row in IDS.tolist()]


def texts_of(batches: Iterable[Batch]) -> list[str]:
    rows = [row for batch in batches for row in batch.y.tolist()]
    return [VOCABULARY._tokenizer.decode([one for one in row if one != VOCABULARY.size]).strip() for row in rows]


def test_captions_stay_with_their_images_and_each_epoch_draws_one() -> None:
    own = loader(captions=tokens_of(CAPTIONS, VOCABULARY), random_flip=True)
    drawn = dict[int, set[str]]()
    for epoch in range(12):
        batches = epoch_of(own, epoch)
        for row, text in zip(rows_of(batches), texts_of(batches), strict=True):
            drawn.setdefault(row, set()).add(text)
    for row, texts in drawn.items():
        assert texts == {f"image {row}", f"number {row}"} if row % 2 else texts == {f"image {row}"}


def test_captions_change_neither_order_nor_flips() -> None:
    plain, own = (
        epoch_of(loader(random_flip=True, **more)) for more in ({}, {"captions": tokens_of(CAPTIONS, VOCABULARY)})
    )
    assert seen(plain) == seen(own)


def test_captions_do_not_depend_on_the_number_of_processes() -> None:
    tokens = tokens_of(CAPTIONS, VOCABULARY)
    one = epoch_of(loader(4, captions=tokens))
    two = [epoch_of(loader(2, captions=tokens, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, *parts in zip(one, *two, strict=True):
        assert_close(torch.cat([part.y for part in parts]), batch.y)


def test_validation_takes_the_first_caption() -> None:
    batches = epoch_of(loader(captions=tokens_of(CAPTIONS, VOCABULARY), shuffle=False))
    assert texts_of(batches) == [f"image {row}" for row in IDS.tolist()]


def test_an_epoch_that_goes_on_has_the_same_captions() -> None:
    tokens = tokens_of(CAPTIONS, VOCABULARY)
    whole, again = epoch_of(loader(captions=tokens), 3), loader(captions=tokens)
    state = {"epoch": 3, "batches": 5, "seed": 0, "images": len(IDS), "global_batch_size": 4}
    again.load_state_dict(state)
    assert_same(epoch_of(again, 3), whole[5:])

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from artart.diffusion.augment import AUGMENT_DIM
from artart.models.embedding import AdaGroupNorm, ConditionEmbedding, timestep_embedding, zero_module

B, EMB_CHANNELS = 3, 16


def vector(condition: ConditionEmbedding, *inputs: torch.Tensor | None) -> torch.Tensor:
    return condition(*inputs).vector


def test_a_time_is_reported_by_sines_and_cosines():
    t = torch.tensor([0.0, 0.001, 0.5, 1.0])
    augment_labels = timestep_embedding(t, 64)
    assert augment_labels.shape == (4, 64)
    for i, time in enumerate(t.double().tolist()):
        for k in range(32):
            angle = time * 1000 / 10 ** (4 * k / 31)  # wavelengths from 2 pi / 1000 to 20 pi
            assert augment_labels[i, k].item() == pytest.approx(math.sin(angle), abs=1e-3)
            assert augment_labels[i, 32 + k].item() == pytest.approx(math.cos(angle), abs=1e-3)


def test_near_times_are_reported_apart_in_half_precision_too():
    t = torch.tensor([0.5, 0.501])
    assert (timestep_embedding(t, 64)[0] - timestep_embedding(t, 64)[1]).abs().max() > 0.5
    assert timestep_embedding(t.bfloat16(), 64).dtype == torch.float32


def test_no_class_is_a_class_of_its_own():
    torch.manual_seed(0)
    condition, x, t = ConditionEmbedding(4, EMB_CHANNELS), torch.zeros(B, 1), torch.full((B,), 0.3)
    none = vector(condition, x, t, None)
    assert_close(none, vector(condition, x, t, torch.full((B,), 4)))
    assert none.shape == (B, EMB_CHANNELS)
    assert_close(none, condition.time(timestep_embedding(t, 64)) + condition.label.weight[4])
    assert (condition.label.weight.std() - 0.02).abs() < 0.01  # it begins as a whisper beside the time


def test_without_classes_the_time_is_all():
    condition, x = ConditionEmbedding(0, EMB_CHANNELS), torch.zeros(B, 1)
    assert_close(
        vector(condition, x, None, torch.zeros(B, dtype=torch.long)),
        condition.time(timestep_embedding(torch.zeros(B), 64)),
    )


def test_scale_and_shift_begin_without_influence_and_then_are_each_images_own():
    torch.manual_seed(0)
    norm, x, condition = (
        AdaGroupNorm(8, EMB_CHANNELS, num_groups=2),
        torch.randn(B, 8, 3, 3),
        torch.randn(B, EMB_CHANNELS),
    )
    plain = nn.functional.group_norm(x, 2)
    assert_close(norm(x, condition), plain)
    nn.init.normal_(norm.scale_shift.weight)
    nn.init.normal_(norm.scale_shift.bias)
    embedding = norm.scale_shift(condition * torch.sigmoid(condition))
    scale, shift = embedding[:, :8, None, None], embedding[:, 8:, None, None]
    assert_close(norm(x, condition), plain * (1 + scale) + shift)


def test_a_zeroed_layer_adds_nothing():
    layer = zero_module(nn.Linear(3, 2))
    assert not layer(torch.randn(B, 3)).any()


# --- several columns, and augmentation


def columns() -> ConditionEmbedding:
    torch.manual_seed(0)
    return ConditionEmbedding((4, 2, 0), EMB_CHANNELS)


def test_each_column_has_a_table_of_its_own_below_the_others():
    condition, x, t = columns(), torch.zeros(B, 1), torch.full((B,), 0.3)
    assert condition.num_classes == (4, 2, 0)
    assert condition.label.weight.shape == (5 + 3 + 1, EMB_CHANNELS)
    y = torch.tensor([[0, 2, 0], [4, 0, 0], [3, 1, 0]])
    rows = torch.tensor([[0, 5 + 2, 8], [4, 5, 8], [3, 5 + 1, 8]])
    wanted = condition.time(timestep_embedding(t, 64)) + sum(condition.label.weight[rows[:, k]] for k in range(3))
    assert_close(vector(condition, x, t, y), wanted)


def test_no_labels_are_the_none_of_each_column():
    condition, x, t = columns(), torch.zeros(B, 1), torch.full((B,), 0.3)
    none = torch.tensor([4, 2, 0]).expand(B, -1)
    assert_close(vector(condition, x, t, None), vector(condition, x, t, none), rtol=0, atol=0)
    for other in ([3, 2, 0], [4, 1, 0]):
        assert (
            vector(condition, x, t, torch.tensor(other).expand(B, -1)) - vector(condition, x, t, None)
        ).abs().max() > 1e-3


def test_a_single_column_needs_no_second_dimension():
    torch.manual_seed(0)
    condition, x, y = ConditionEmbedding(4, EMB_CHANNELS), torch.zeros(B, 1), torch.tensor([0, 4, 2])
    assert condition.num_classes == ConditionEmbedding([4], EMB_CHANNELS).num_classes == (4,)
    assert_close(vector(condition, x, None, y), vector(condition, x, None, y[:, None]), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [0, (), (0, 0)])
def test_columns_without_values_have_no_table(num_classes):
    assert ConditionEmbedding(num_classes, EMB_CHANNELS).label is None


def test_augmentation_begins_without_influence_and_zeros_never_have_one():
    torch.manual_seed(0)
    condition, x, embedding = (
        ConditionEmbedding(4, EMB_CHANNELS, augment_dim=AUGMENT_DIM),
        torch.zeros(B, 1),
        torch.randn(B, AUGMENT_DIM),
    )
    plain = vector(condition, x, None, None)
    assert_close(vector(condition, x, None, None, embedding), plain, rtol=0, atol=0)
    nn.init.normal_(condition.augmentation.weight)
    assert_close(vector(condition, x, None, None), plain, rtol=0, atol=0)
    assert_close(vector(condition, x, None, None, torch.zeros(B, AUGMENT_DIM)), plain, rtol=0, atol=0)
    assert_close(vector(condition, x, None, None, embedding), plain + embedding @ condition.augmentation.weight.mT)


def test_who_is_not_asked_for_augmentation_takes_no_notice_of_it():
    torch.manual_seed(0)
    condition, x = ConditionEmbedding(4, EMB_CHANNELS), torch.zeros(B, 1)
    assert condition.augmentation is None
    assert_close(
        vector(condition, x, None, None, torch.randn(B, AUGMENT_DIM)), vector(condition, x, None, None), rtol=0, atol=0
    )

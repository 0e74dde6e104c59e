from hashlib import sha256

import pytest

from artart.data.split import split


def digests(num: int, start: int = 0) -> list[str]:
    return [sha256(str(i).encode()).hexdigest() for i in range(start, start + num)]


def alone(names: list[str], val_fraction: float) -> list[int]:
    """The split of images of which none duplicate_of another."""
    return split(names, range(len(names)), val_fraction)


def held_out(names: list[str], val_fraction: float) -> set[str]:
    return {names[i] for i in alone(names, val_fraction)}


@pytest.mark.parametrize("val_fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_split_holds_out_about_the_fraction(val_fraction: float) -> None:
    assert len(alone(digests(2000), val_fraction)) / 2000 == pytest.approx(val_fraction, abs=0.03)


@pytest.mark.parametrize("val_fraction", [0.1, 0.5])
def test_an_image_keeps_its_side_when_others_are_added(val_fraction: float) -> None:
    few, many = digests(200), digests(1000)
    assert held_out(many, val_fraction) & set(few) == held_out(few, val_fraction)
    assert held_out(few[::-1], val_fraction) == held_out(few, val_fraction)


@pytest.mark.parametrize(("size", "wanted"), [(1, [4, 8, 9, 10, 13, 17]), (2, [8, 9, 10, 11, 12, 13])])
def test_what_is_held_out_stays_so_in_later_versions(size: int, wanted: list[int]) -> None:
    """Else an old checkpoint would be judged on images that it was trained on."""
    assert split(digests(20), [i // size for i in range(20)], 0.3) == wanted


def test_near_duplicates_share_a_side() -> None:
    names = digests(100)
    groups = [i % 40 for i in range(100)]
    ids = set(split(names, groups, 0.3))
    assert 0 < len(ids) < 100
    assert {groups[i] for i in ids}.isdisjoint(groups[i] for i in set(range(100)) - ids)


@pytest.mark.parametrize("size", [2, 5])
def test_groups_are_held_out_as_often_as_images_alone(size: int) -> None:
    names = digests(5000)
    held = split(names, [i // size for i in range(5000)], 0.2)
    assert len(held) / 5000 == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("val_fraction", [1e-9, 0.1, 0.5, 0.999999])
@pytest.mark.parametrize("num", [2, 4, 5, 20])
def test_no_side_is_ever_empty(num: int, val_fraction: float) -> None:
    for start in range(0, 1000, num):
        assert 0 < len(alone(digests(num, start), val_fraction)) < num


def test_the_only_image_of_a_label_stays_in_training() -> None:
    names = digests(40)
    first, second = sorted(alone(names, 0.5), key=lambda i: names[i])[1:3]  # the lowest is always held out
    labels = [[("single")] if i == first else ["pair"] if i == second else ["many"] for i in range(40)]
    before, after = set(alone(names, 0.5)), set(split(names, range(40), 0.5, labels))
    assert {first, second} <= before
    assert after == before - {first, second}


def test_no_side_is_empty_if_each_image_has_a_label_of_its_own() -> None:
    assert len(split(digests(20), range(20), 0.3, [[i] for i in range(20)])) == 1


def test_nothing_is_held_out_with_a_fraction_of_0() -> None:
    assert alone(digests(20), 0) == []

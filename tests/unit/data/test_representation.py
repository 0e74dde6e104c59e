"""What a report says of a collection, against values that are known."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from artart.data.index import Entry
from artart.data.report import _columns_table
from artart.data.representation import decade, representation, sides, sizes
from artart.data.scan import FileInfo


def test_numbers_of_a_column():
    found = representation([*"aaaaaabbbc", "", ""])
    assert found["known"] == 10
    assert found["unknown"] == 2
    assert found["different"] == 3
    assert found["effective_number"] == pytest.approx(math.exp(entropy([6, 3, 1])))
    assert list(found["most"].items()) == [("a", 6), ("b", 3), ("c", 1)]


@pytest.mark.parametrize("number", [1, 4, 9])
def test_equally_frequent_values_are_as_many_as_there_are(number):
    assert representation(map(str, range(number)))["effective_number"] == pytest.approx(number)


def test_a_column_without_values():
    found = representation(["", ""])
    assert found == {
        "known": 0, "unknown": 2, "different": 0, "effective_number": 0.0, "most": {}
    }  # fmt: skip
    assert _columns_table({"representation": {"place": found}}).rows == [["place", "0", "0.0", "2", ""]]


def test_decades():
    values = ("1904", "c. 1890", "1890-95", "about 1771", "12", "18400", "Passmore, Deborah, 1840-1911", "")
    assert [*map(decade, values)] == ["1900s", "1890s", "1890s", "1770s", "", "", "", ""]


def entry(width: int, height: int, orientation: int = 1, status: str = "ok", kind: str = "JPEG") -> Entry:
    return Entry("a", "", FileInfo(width=width, height=height, orientation=orientation, format=kind), status, "")


def test_sizes_are_upright_and_of_used_images():
    turned = entry(100, 50, orientation=6), entry(50, 100, orientation=6, kind="TIFF")  # whose header is upright
    np.testing.assert_array_equal(
        sides([entry(100, 50), *turned, entry(9, 9, status="rejected")]), [[100, 50], [50, 100], [50, 100]]
    )


def test_what_a_square_costs():
    found = sizes([entry(100, 50), entry(64, 64), entry(30, 40), entry(60, 50)], image_size=64)
    lost = [0.5, 0, 0.25, 1 / 6]
    assert found["lost"]["p50"] == pytest.approx(np.median(lost))
    assert found["lost"]["above_a_quarter"] == 0.25
    assert found["enlarged"] == 0.75
    assert found["aspect_ratio"]["p50"] == pytest.approx(np.median([2, 1, 0.75, 1.2]))
    assert sizes([], image_size=64) == {}

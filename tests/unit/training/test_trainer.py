import pytest

from artart import ArtError
from artart.training.trainer import OURS, check_arguments


@pytest.mark.parametrize("key", OURS)
@pytest.mark.parametrize("value", [False, True, 1])
def test_check_arguments_refuses_what_would_have_no_effect(key, value):
    with pytest.raises(ArtError, match=rf"^trainer\.{key}={str(value).lower()}: "):
        check_arguments({"max_epochs": 1, key: value})


def test_check_arguments_takes_others():
    check_arguments({"max_epochs": 1, "profiler": "simple", "barebones": None})

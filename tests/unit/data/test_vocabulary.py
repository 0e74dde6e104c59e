import sys
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from artart import ArtError
from artart.data.vocabulary import Vocabulary, tokens_of, train

CAPTIONS = ["a red apple", "a red pear", "a green apple by Newton", "Äpfel"] * 5


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train(CAPTIONS, max_tokens=64).of_training(Counter(CAPTIONS))


def decoded(vocabulary: Vocabulary, row: torch.Tensor) -> str:
    return vocabulary._tokenizer.decode([token for token in row.tolist() if token != vocabulary.size])


def test_a_caption_comes_back_from_its_tokens_in_lower_case(vocabulary):
    rows = vocabulary.encode(["A red apple", "Äpfel", ""])
    assert rows.shape == (3, vocabulary.num_tokens)
    assert [decoded(vocabulary, row) for row in rows] == [" a red apple", " äpfel", ""]
    assert (rows[2] == vocabulary.size).all()


def test_a_word_that_was_never_seen_is_made_of_bytes(vocabulary):
    (row,) = train(["x" * 40], 64).encode(["zebra 北斎"])
    assert row.max() < vocabulary.size
    (row,) = vocabulary.encode(["Zéb"])
    assert decoded(vocabulary, row) == " zéb"


def test_longer_captions_are_cut_off():
    short = train(CAPTIONS, max_tokens=2)
    assert short.num_tokens == 2
    assert_close(short.encode(["a red apple"]), train(CAPTIONS, 64).encode(["a red apple"])[:, :2])


def test_training_does_not_depend_on_the_order(vocabulary):
    assert train(CAPTIONS[::-1], 64).identity == vocabulary.identity


def test_it_is_made_again_from_plain_data(vocabulary):
    again = Vocabulary(**vocabulary.content)
    assert again.content == vocabulary.content
    assert_close(again.encode(CAPTIONS), vocabulary.encode(CAPTIONS))


def test_words_and_prompts_are_those_of_the_training(vocabulary):
    assert vocabulary.words == {
        "a": 15,
        "red": 10,
        "apple": 10,
        "pear": 5,
        "green": 5,
        "by": 5,
        "newton": 5,
        "äpfel": 5,
    }
    assert vocabulary.unknown("A green Zebra by Newton's zebra") == ["zebra", "newton's"]
    more = vocabulary.of_training({"a red pear": 1, "a plum": 3})
    assert (more.words["plum"], more.words["pear"]) == (3, 6)
    assert more.prompts[0] == "a plum"
    assert more.identity == vocabulary.identity


def test_each_caption_of_an_image_is_drawn_as_often(vocabulary):
    captions = [("a red apple", "a red pear"), (), ("a green apple by Newton",)]
    tokens, wanted = tokens_of(captions, vocabulary), vocabulary.encode(["a red apple", "a red pear", "", CAPTIONS[2]])
    assert_close(tokens.first(torch.tensor([2, 1, 0])), wanted[[3, 2, 0]])
    drawn = tokens.draw(torch.tensor([0, 1, 2]).repeat(600), torch.Generator().manual_seed(0)).view(600, 3, -1)
    is_first = (drawn[:, 0] == wanted[0]).all(dim=1)
    assert_close(drawn[~is_first, 0], wanted[1].expand((~is_first).sum(), -1))
    assert 240 < is_first.sum() < 360
    assert (drawn[:, 1] == wanted[2]).all()
    assert (drawn[:, 2] == wanted[3]).all()


def test_without_the_library_its_installation_is_named(vocabulary, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for make in (lambda: train(CAPTIONS, 64), lambda: Vocabulary(**vocabulary.content)):
        with pytest.raises(ArtError, match=r"pip install 'artart\[text\]'"):
            make()


@pytest.mark.parametrize("content", ["", "{}", "null", '{"model": 3}', "x" * 1000])
def test_what_is_no_tokenizer_is_refused(content):
    with pytest.raises(ArtError, match="the tokenizer cannot be read"):
        Vocabulary(content, 3, {}, [])

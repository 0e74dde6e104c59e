"""Real images for grids: rows of one label, or of one prompt."""

from collections import Counter
from itertools import cycle, islice

from artart.data.captions import words_in
from artart.data.datamodule import ArtDataModule
from artart.data.vocabulary import Prompts
from artart.io.images import Batch, to_model

MAX_SEARCHED = 20_000  # images whose captions are compared with a prompt


def preview(data: ArtDataModule, per_row: int, min_rows: int = 4, max_rows: int = 20) -> Batch:
    """Real images on the CPU: rows of `per_row` images of one label of the first column, the most frequent labels.

    With captions they are rows of `data.prompts` or the most frequent captions, and y are the tokens of these. Held-out
    images come first; a row with too few images repeats them. Few labels get several rows each.
    """
    if data.text.vocabulary is not None:
        return _of_prompts(data, data.text.vocabulary, per_row, max_rows)
    label_of = data.images.labels[:, 0].tolist()
    shown = sorted(label for label, _ in Counter(sorted(label_of)).most_common(max_rows))
    num_rows = -(-min_rows // len(shown))
    ids: list[int] = []
    for label in shown:
        members = [i for i in (*data.val_ids, *data.train_ids) if label_of[i] == label]
        ids += islice(cycle(members), num_rows * per_row)
    return Batch(to_model(data.pixels_of(ids)), data.images.labels[ids])


def _of_prompts(data: ArtDataModule, vocabulary: Prompts, per_row: int, max_rows: int) -> Batch:
    """Each row has the images with the captions that share most words with the prompt."""
    prompts = data.prompts or vocabulary.prompts[:max_rows]
    order = [*data.val_ids, *data.train_ids][:MAX_SEARCHED]
    words = [[frozenset(words_in(text)) for text in data.images.captions[i]] or [frozenset()] for i in order]
    ids: list[int] = []
    for prompt in prompts:
        wanted = set(words_in(prompt))
        likeness = [max(len(wanted & own) - 0.01 * len(own - wanted) for own in each) for each in words]
        best = sorted(range(len(order)), key=likeness.__getitem__, reverse=True)
        ids += islice(cycle([order[k] for k in best]), per_row)
    return Batch(to_model(data.pixels_of(ids)), vocabulary.encode(prompts).repeat_interleave(per_row, dim=0))

"""Whether images show what they were asked for: a classifier that was trained on real images recognises it."""

from collections import Counter
from collections.abc import Sequence
from operator import eq
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artart.metrics.distances import share

NUM_STEPS = 100  # of L-BFGS
WEIGHT_DECAY = 1e-2
MIN_IMAGES = 100  # held-out images; with fewer the classifier learns too little


class Classifier:
    """A linear classifier of features: multinomial logistic regression, whose loss is convex."""

    def __init__(self, features: Tensor, names: Sequence[str]) -> None:
        """Learn the classes of images from their features (N, D)."""
        self.names = sorted(set(names))
        self.mean, self.std = features.mean(dim=0), features.std(dim=0) + 1e-6
        shape = (features.shape[1], len(self.names))
        self.weight = torch.zeros(shape, dtype=features.dtype, requires_grad=True)
        self.bias = torch.zeros(shape[1], dtype=features.dtype, requires_grad=True)
        classes = torch.tensor([self.names.index(name) for name in names])
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=NUM_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(self._scores(features), classes) + WEIGHT_DECAY * self.weight.square().sum() / 2
            value.backward()
            return value

        with torch.inference_mode(False), torch.enable_grad():
            optimizer.step(loss)

    def _scores(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std @ self.weight + self.bias

    def __call__(self, features: Tensor) -> list[str]:
        """The class that each image seems to have."""
        with torch.no_grad():
            return [self.names[k] for k in self._scores(features).argmax(dim=1).tolist()]


def fidelity(samples: Tensor, held_out: Tensor, names: Sequence[str]) -> dict[str, Any] | None:
    """The share of samples in which a classifier finds the class of the image whose label or caption they have.

    It is trained on one half of the held-out images to judge the samples of the other half. Beside the share stand its
    `ceiling`, that of held-out images themselves; its `floor`, that of samples with shuffled classes; and
    `of_ceiling`, where it lies between them: 0 to 1.

    Args:
        samples: features (N, D); sample k has the label or caption of held-out image k % M.
        held_out: features (M, D).
        names: the classes of held-out images, (M,).

    Returns None if fewer than MIN_IMAGES are held out, or all have one class.
    """
    num = len(held_out)
    if num < MIN_IMAGES or len(set(names)) < 2:
        return None
    right, right_of_art, floor = 0, 0, 0.0
    for half in (0, 1):
        classify = Classifier(held_out[half::2], names[half::2])
        judged = [k for k in range(len(samples)) if k % num % 2 != half]
        wanted, found = [names[k % num] for k in judged], classify(samples[judged])
        right += sum(map(eq, found, wanted))
        right_of_art += sum(map(eq, classify(held_out[1 - half :: 2]), names[1 - half :: 2]))
        of_found, of_wanted = Counter(found), Counter(wanted)
        floor += sum(of_found[name] * of_wanted[name] for name in of_wanted) / len(judged) / len(samples)
    ceiling, measured = right_of_art / num, share(right, len(samples))
    of_ceiling = (measured.value - floor) / (ceiling - floor) if ceiling > floor else 0.0
    return {**measured._asdict(), "floor": floor, "ceiling": ceiling, "of_ceiling": of_ceiling}

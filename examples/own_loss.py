"""Train with a loss term of your own: python examples/own_loss.py [key=value ...]

A term maps reconstructions and images, both (B, 3, S, S) in [-1, 1], to one number per image, (B,). artart builds it
from the name of its module and class, and adds it to the others with its weight.
"""

import sys

from PIL import Image
from torch import Tensor

import artart
from artart.data.demo import paint
from artart.train import train


class Edges:
    """Mean squared error of the differences between neighbouring pixels: blurred edges cost more."""

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        error = x_hat - x
        rows, columns = error.diff(dim=2), error.diff(dim=3)
        return rows.square().mean(dim=(1, 2, 3)) + columns.square().mean(dim=(1, 2, 3))


SETTINGS = (
    "loss=mse",
    "+loss.edges._target_=own_loss.Edges",
    "+loss.weights.edges=0.5",
    "trusted_classes=[own_loss.Edges]",
    "image_size=32",
    "trainer.max_epochs=4",
)

if __name__ == "__main__":
    result = train([*SETTINGS, *sys.argv[1:]])
    assert result.checkpoint is not None
    model = artart.load(result.checkpoint, trusted_classes=["own_loss.Edges"])
    (image,) = model.reconstruct(Image.fromarray(paint("painting", seed=1, size=96)))
    print(artart.save_image(image, result.run_dir / "painting.png"))

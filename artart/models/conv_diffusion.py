"""The article's network."""

from torch import Tensor, nn


class ConvDiffusionModel(nn.Module):
    """Three blocks down, three blocks up, additive skips between them: a convolutional autoencoder, 742,659 parameters.

    Layers, order and sizes are those printed in the article. One thing is repaired: input and output share the range
    [-1, 1]; the article's sigmoid is kept and stretched to it.
    """

    def __init__(self, image_size: int = 128) -> None:
        """Raises ValueError if three halvings of image_size leave a fraction."""
        super().__init__()
        if image_size < 8 or image_size % 8:
            lower = max(8, image_size // 8 * 8)
            raise ValueError(
                f"image_size={image_size}: not divisible by 8, which three halvings need; try {lower} or {lower + 8}"
            )
        self.enc1 = _down(3, 64)
        self.enc2 = _down(64, 128)
        self.enc3 = _down(128, 256)
        self.dec1 = _up(256, 128, nn.ReLU(), nn.BatchNorm2d(128))
        self.dec2 = _up(128, 64, nn.ReLU(), nn.BatchNorm2d(64))
        self.dec3 = _up(64, 3, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] to the same shape and range."""
        skip1 = self.enc1(x)
        skip2 = self.enc2(skip1)
        x = self.dec1(self.enc3(skip2))
        x = self.dec2(x + skip2)
        upsample, sigmoid = self.dec3
        return 2 * sigmoid(upsample(x + skip1).float()) - 1  # in bf16 the last bit near white is a grey level


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(out_channels),
        nn.MaxPool2d(2),
    )


def _up(in_channels: int, out_channels: int, *rest: nn.Module) -> nn.Sequential:
    upsample = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(upsample, *rest)

"""Images of 128 px in equal CPU seconds: denoisers of pixels, small pixels enlarged, and latent diffusion.

    python -m benchmarks resolution --root ~/art --weights ~/weights --vgg vgg16.pth

Each row trains with one thread for the same CPU seconds in all, which include startup, the first stage and encoding.
The number of steps follows from two short runs. Samples of all rows are compared at 128 px with held-out images: KID,
precision and recall on AlexNet, power spectrum, near-duplicates. The last row is of as many training images.
"""

from argparse import ArgumentParser, Namespace

from artart.io.page import Table
from benchmarks import judge, training
from benchmarks.judge import judge_of, run_and_judge
from benchmarks.records import Record, Records, table
from benchmarks.training import Row, Trainings

SIZE = 128
PIXELS = ("experiment=diffusion_cpu", "objective.parameterization=x0", f"image_size={SIZE}")
VIT = (
    *("model=vit", "model.patch_size=8", "model.hidden_size=192", "model.depth=6", "model.num_heads=3"),
    *("optimizer=adamw", "optimizer.lr=1e-3"),  # Muon trains filters, of which it has none
)
ROWS = {
    "pixels, U-Net, patches of 4": Row((*PIXELS, "model.patch_size=4")),
    "pixels, ViT, patches of 8": Row((*PIXELS, *VIT)),
    "pixels of 32 px, enlarged": Row(("experiment=diffusion_cpu",)),
    "latents, f4": Row(("experiment=latent",), ("experiment=autoencoder",)),
    "latents, f8": Row(("experiment=latent",), ("experiment=autoencoder", "model=autoencoder_f8")),
}
QUICK = {**training.QUICK, "only": ["pixels of 32 px, enlarged"]}


def options(parser: ArgumentParser) -> None:
    training.options(parser, ROWS, num_samples=1000)
    parser.add_argument("--minutes", type=float, default=15.0, help="CPU minutes of a row")
    parser.add_argument("--first-stage-minutes", type=float, default=8.0, help="of these for the first stage")


def run(args: Namespace, records: Records) -> None:
    rows = {name: Row(row.settings, with_vgg(row.first_stage, args)) for name, row in ROWS.items()}
    run_and_judge(args, records, Trainings(args, rows), lambda: judge_of(args, SIZE))


def with_vgg(settings: tuple[str, ...], args: Namespace) -> tuple[str, ...]:
    """Settings of a loss with VGG-16, if there are any."""
    return (*settings, f"loss.perceptual.weights={args.vgg}") if settings else ()


def tables(records: list[Record]) -> list[Table]:
    return [table("in equal CPU seconds", records, judge.COLUMNS)]

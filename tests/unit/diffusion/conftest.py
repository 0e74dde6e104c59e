import pytest
import torch

from artart.diffusion.schedule import Cosine, Flow, Linear, Schedule, Table

DDPM_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SCHEDULES = {
    "flow": Flow(),
    "cosine": Cosine(),
    "linear": Linear(),
    "table": Table((1 - DDPM_BETAS).cumprod(0).tolist()),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Each schedule in turn; linear and the table of DDPM end before pure noise."""
    return SCHEDULES[request.param]

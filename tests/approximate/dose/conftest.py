import pytest
import torch
from small import examples
from torch import nn

from unlearnlib.data.examples import Split


@pytest.fixture(scope="session")
def tiny():
    """Pictures of four pixels and a linear network in float64: 15 parameters, everything can be solved exactly."""
    parts = [examples(n=n, side=2, seed=s) for n, s in ((60, 0), (12, 2), (12, 3))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    return model, Split.of(retain=parts[0], forget=parts[1], validation=parts[2])

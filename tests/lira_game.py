"""What the tests of likelihood-ratio attacks share: margins of which everything is known, attacked in game B."""

from unlearnlib.audit.attacks.lira import lira
from unlearnlib.audit.statistics.state import FORGET, state_matrix
from unlearnlib.seeding import numpy_generator

TWO = ("forget", "never")


def attack(models, examples, *, seed, gain=0.0, spread=3.0, model_shift=0.0, variance="shared", sd=1.0, states=TWO):
    """Game B on margins = difficulty + gain if forgotten + noise + an offset of the whole model."""
    design = state_matrix(models, examples, states=states, seed=seed)
    rng = numpy_generator(seed, "lira-attack")
    noise = rng.normal(size=(models, examples)) + gain * (design.state == FORGET)
    s = spread * rng.normal(size=examples) + sd * noise + model_shift * rng.normal(size=(models, 1))
    return lira(s, design, game="B", variance=variance)

"""Cheap made-up models for audits of class unlearning: logits and features of many models without any training."""

import numpy as np

from unlearnlib.seeding import numpy_generator

CLASSES, FORGOTTEN, NEIGHBOUR = 5, 3, 1


def logits(models: int, *, seed: int, per_class: int = 20, lift: float = 2.0, push: float = 6.0, spread: float = 0.3):
    """Logits [models, N, CLASSES] of models that never saw class 3 and call it class 1, and labels [N].

    `lift` is the logit that class 1 gets on inputs of class 3, `push` by how much that of class 3 lies below; a model
    differs from another by noise of deviation `spread` shared by its inputs. Inputs are the same for all seeds.
    """
    y = np.repeat(np.arange(CLASSES), per_class)
    inputs = numpy_generator(0, "class-inputs").normal(size=(len(y), CLASSES))
    z = inputs + 4 * np.eye(CLASSES)[y]
    there = y == FORGOTTEN
    z[there] = inputs[there] + lift * np.eye(CLASSES)[NEIGHBOUR]
    z[:, FORGOTTEN] -= push
    rng = numpy_generator(seed, "class-models")
    own = spread * rng.normal(size=(models, CLASSES, CLASSES))[:, y]  # a model's bias for each class of input
    return z + own + 0.1 * rng.normal(size=(models, *z.shape)), y

"""Visible evidence: a client that teaches a trigger, and how often the trigger is obeyed.

A share of one client's pictures gets a white square in the corner and the label `target` (as BadNets do; the square is
that of the request "poisoned", `data`). A model that met this client answers `target` where it sees the square; one
that never did hardly does. Agreement of answers on clean pictures cannot show the difference.
"""

from dataclasses import replace

import torch

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.data.requests import stamp
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.options import numbers


def planted(federation: Federation, client: int, target: int, share: float = 0.8, seed: int = 0) -> Federation:
    """`federation` with a trigger in a `share` of one client's pictures, which get the label `target`."""
    doors.whole(0, federation.clients - 1, client=client)
    doors.whole(0, target=target)
    numbers(0, 1, share=share)
    held = federation.members[client]
    order = torch.randperm(len(held), generator=seeding.generator(seed, "trigger", client))
    chosen = held[order[: round(share * len(held))]]
    examples = federation.examples
    images, labels = examples.images.clone(), examples.labels.clone()
    images[chosen], labels[chosen] = stamp(examples[chosen]).images, target
    return replace(federation, examples=replace(examples, images=images, labels=labels))


def triggered(examples: Examples, target: int) -> Examples:
    """The `examples` of other classes than `target` with the trigger, and their true labels."""
    doors.whole(0, target=target)
    others = examples[examples.labels != target]
    if not len(others):
        raise ValueError(f"all examples are of class {target}: a trigger shows on other classes only")
    return stamp(others)


def obeyed(learner, examples: Examples, target: int) -> float:
    """The share of the `triggered` examples that `learner.logits` answers with `target`."""
    return (learner.logits(triggered(examples, target)).argmax(1) == target).float().mean().item()

"""Who holds what: even and skewed divisions, strangers' divisions, and what is refused."""

import pytest
import torch
from small import examples

from unlearnlib.federated.federation import Federation


def test_even_shares_hold_everything_once_and_depend_on_the_seed():
    made = Federation.of(examples(103), clients=10, seed=0)
    sizes = [len(m) for m in made.members]
    assert sum(sizes) == 103 and max(sizes) - min(sizes) == 1 and made.clients == 10
    assert torch.equal(torch.cat(made.members).sort().values, torch.arange(103))
    assert torch.equal(made.client, Federation.of(examples(103), clients=10, seed=0).client)
    assert not torch.equal(made.client, Federation.of(examples(103), clients=10, seed=1).client)
    assert made.own(3).labels.tolist() == made.examples.labels[made.client == 3].tolist()


def test_a_small_alpha_gives_clients_classes_of_their_own_and_a_large_one_does_not():
    def share_of_the_largest_class(alpha):
        made = Federation.of(examples(600), clients=5, alpha=alpha, seed=3)
        counts = [torch.bincount(made.own(k).labels, minlength=3) for k in range(5)]
        return sum(float(c.max() / c.sum()) for c in counts) / 5

    assert share_of_the_largest_class(0.2) > 0.6 > share_of_the_largest_class(1000.0)
    assert share_of_the_largest_class(1000.0) == pytest.approx(1 / 3, abs=0.05)


def test_a_strangers_division_is_taken():
    named = Federation.of(examples(6), clients=[0, 1, 1, 0, 2, 2])
    assert [m.tolist() for m in named.members] == [[0, 3], [1, 2], [4, 5]]
    listed = Federation.of([examples(4), examples(5)])
    assert [len(m) for m in listed.members] == [4, 5] and len(listed.examples) == 9
    pairs = [(torch.zeros(1, 4, 4), k % 2) for k in range(6)]
    assert Federation.of(pairs, clients=3).clients == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clients": 1}, "whole number in 2..12"),
        ({"clients": 13}, "whole number in 2..12"),
        ({"clients": "ten"}, "clients is how many"),
        ({"clients": 2.0}, "clients is how many"),
        ({"clients": [0, 1]}, "int64 tensor"),
        ({"clients": [0, 2] * 6}, "client 1 holds no example"),
        ({"clients": [0] * 12}, "two clients or more"),
        ({"clients": [-1, 1] * 6}, "numbered from 0"),
        ({"alpha": 0}, "alpha must be a number above 0"),
        ({"alpha": float("nan")}, "alpha must be a number above 0"),
        ({"clients": 11, "alpha": 0.01}, "without an example: raise it"),
        ({"clients": [0, 1] * 6, "alpha": 1.0}, "alpha divides between a number"),
        ({"examples": [examples(4), examples(5)], "clients": 2}, "divided already"),
        ({"examples": "mnist"}, "map-style data set"),
    ],
)
def test_what_cannot_be_a_federation_is_refused_in_one_line(change, said):
    given = {"examples": examples(12), **change}
    with pytest.raises(ValueError, match=said) as error:
        Federation.of(given.pop("examples"), **given)
    assert "\n" not in str(error.value)

"""Who holds what: examples, and the client to which each of them belongs.

A hospital's pictures stay in the hospital. Here all of them lie in one place, so that one machine can play every part;
what is sent between the parts is vectors of weights and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples

CLIENTS = 10
_DRAWS = 100  # tries at a division that leaves nobody without an example


@dataclass(frozen=True, eq=False)
class Federation:
    """`client` [N] int64 says who holds each of the examples; clients are numbered from 0, and each holds one or more.

    Raises ValueError on another shape, fewer than two clients, and a client without examples.
    """

    examples: Examples
    client: Tensor

    def __post_init__(self):
        if not isinstance(self.examples, Examples):
            raise ValueError(f"examples must be Examples, not {type(self.examples).__name__}: see Federation.of")
        client, n = self.client, len(self.examples)
        if not isinstance(client, Tensor) or client.dtype != torch.int64 or tuple(client.shape) != (n,):
            raise ValueError(f"client must be an int64 tensor [{n}], the number of each example's client")
        if n == 0 or int(client.min()) < 0:
            raise ValueError("clients are numbered from 0, and hold at least one example together")
        empty = (torch.bincount(client) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"client {empty[0]} holds no example: number the clients from 0 without a gap")
        if self.clients < 2:
            raise ValueError("a federation has two clients or more: one client is ordinary training")

    @property
    def clients(self) -> int:
        """How many there are."""
        return int(self.client.max()) + 1

    @cached_property
    def members(self) -> tuple[Tensor, ...]:
        """Positions of each client's examples, ascending."""
        return tuple((self.client == k).nonzero().flatten() for k in range(self.clients))

    def own(self, client: int) -> Examples:
        """The examples of one client."""
        return self.examples[self.members[client]]

    def __repr__(self) -> str:
        sizes = [len(part) for part in self.members]
        return f"Federation({self.clients} clients with {min(sizes)} to {max(sizes)} examples)"

    @staticmethod
    def of(examples, clients: int | Sequence[int] | None = None, alpha: float | None = None, seed: int = 0):
        """A federation out of one data set, or of one data set a client.

        examples  what `Examples.of` reads, divided between clients; or a list of such, one a client
        clients   how many (10), or the number [N] of each example's client, where they have one by nature
        alpha     None: every client gets an even share drawn uniformly. A number: each class is divided by a draw of
                  Dirichlet(alpha), so that small ones give every client classes of its own
        seed      of the division

        Raises ValueError where there are fewer examples than clients or alpha leaves somebody without any.
        """
        if isinstance(examples, (list, tuple)) and all(not isinstance(part, (list, tuple)) for part in examples):
            if clients is not None or alpha is not None:
                raise ValueError("a list of data sets is divided already: leave clients= and alpha= out")
            parts = [Examples.of(part) for part in examples]
            numbers = [torch.full((len(part),), k) for k, part in enumerate(parts)]
            return Federation(Examples.concatenate(parts), torch.cat(numbers))
        examples = Examples.of(examples)
        if clients is not None and not isinstance(clients, (int, np.integer)):
            if alpha is not None:
                raise ValueError("alpha divides between a number of clients: give clients=10, or leave alpha out")
            if isinstance(clients, (str, bytes, float, bool)):
                raise ValueError(f"clients is how many, or the client of each example, not {clients!r}")
            return Federation(examples, torch.as_tensor(clients))
        count = CLIENTS if clients is None else clients
        doors.whole(2, len(examples), clients=count)
        if alpha is None:
            rng = seeding.generator(seed, "clients")
            client = torch.empty(len(examples), dtype=torch.int64)
            client[torch.randperm(len(examples), generator=rng)] = torch.arange(len(examples)) % count
            return Federation(examples, client)
        if not doors.real(alpha) or alpha <= 0:
            raise ValueError(f"alpha must be a number above 0, or None for even shares, not {alpha!r}")
        return Federation(examples, _skewed(examples.labels.cpu(), int(count), float(alpha), seed))


def _skewed(labels: Tensor, count: int, alpha: float, seed: int) -> Tensor:
    draw = seeding.numpy_generator(seed, "clients", "by class")
    for _ in range(_DRAWS):
        client = torch.empty(len(labels), dtype=torch.int64)
        for label in labels.unique().tolist():
            where = torch.from_numpy(draw.permutation((labels == label).nonzero().flatten().numpy()))
            ends = np.round(np.cumsum(draw.dirichlet([alpha] * count)) * len(where)).astype(int)
            for k, part in enumerate(np.split(where.numpy(), ends[:-1])):
                client[torch.from_numpy(part)] = k
        if len(client.unique()) == count:
            return client
    raise ValueError(f"alpha={alpha:g} leaves some of {count} clients without an example: raise it, or ask for fewer")

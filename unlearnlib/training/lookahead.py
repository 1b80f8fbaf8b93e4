"""Look-ahead averaging: fast weights set out from slow ones, which follow every few steps (Zhang et al. 2019).

    slow <- a slow + (1 - a) fast,   fast <- slow      after every fifth step, a = .95^5 (step / steps)^3

In the beginning a = 0 and nothing happens; towards the end the slow weights hold still, an average over many steps.
Running statistics are averaged with the weights. At the end the network is the slow one.
"""

import torch
from torch import nn

EVERY, LAST = 5, 0.95**5


class Lookahead:
    """The slow copy of what trains in `module`, over `steps` steps."""

    def __init__(self, module: nn.Module, steps: int):
        trained = [p for p in module.parameters() if p.requires_grad]
        statistics = [b for b in module.buffers() if b.is_floating_point()]
        self._fast, self._steps = [*(p.detach() for p in trained), *statistics], steps
        self._slow = [value.clone() for value in self._fast]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """To be called after step 0 <= `step` < steps."""
        done = step + 1
        if done % EVERY == 0:
            share = 1 - LAST * (done / self._steps) ** 3
            for slow, fast in zip(self._slow, self._fast, strict=True):
                slow.lerp_(fast, share)
        if done % EVERY == 0 or done == self._steps:
            for slow, fast in zip(self._slow, self._fast, strict=True):
                fast.copy_(slow)

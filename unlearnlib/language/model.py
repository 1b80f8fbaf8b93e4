"""A small transformer, how it is taught, and the probability that it gives an answer.

    p(answer | question)^(1/L) = exp(-l / L),   l = - sum_{t in answer} log p(word_t | words before)

L is the number of words of the answer: a geometric mean, so that long and short answers compare.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.language.texts import Texts
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import evaluating
from unlearnlib.training.work import Tally


class Block(nn.Module):
    """Causal self-attention and a two-layer network, each added to its input after a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        size = D // self.heads
        mixed = self.mix(self.norm1(x)).view(B, T, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = mixed.reshape(3, B * self.heads, T, size)
        later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        # products of matrices and not torch's fused attention, whose last bits are those of a processor
        weights = (q @ k.transpose(1, 2) / size**0.5).masked_fill(later, -torch.inf).softmax(-1)
        x = x + self.out((weights @ v).view(B, self.heads, T, size).transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Word numbers [B, T] -> logits [B, T, V] of the next word; the embedding is also the last layer (tied)."""

    def __init__(self, words: int, length: int, width: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} does not divide into heads={heads}")
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def hidden(self, tokens: Tensor, layer: int) -> Tensor:
        """What leaves block `layer` (1 is the first; 0 the embedding): [B, T, width]."""
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks[:layer]:
            x = block(x)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.hidden(tokens, len(self.blocks))) @ self.embed.weight.T


@dataclass(frozen=True)
class Teaching:
    """How a model is taught: AdamW on the answers, cosine from `lr` to 0."""

    epochs: int = 60
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.01

    def __post_init__(self):
        if min(self.epochs, self.batch_size) < 1 or not 0 < self.lr < 1 or self.weight_decay < 0:
            raise ValueError(f"teaching needs epochs and batch_size of 1 or more and 0 < lr < 1, not {self}")


def build(texts: Texts, seed: int = 0, width: int = 64, layers: int = 2, heads: int = 4) -> Transformer:
    """An untrained transformer for the vocabulary and the length of these texts."""
    with seeding.isolated(seed, "transformer"):
        return Transformer(len(texts.words), texts.tokens.shape[1], width, layers, heads)


def fit(model: nn.Module, texts: Texts, teaching: Teaching | None = None, seed: int = 0, tally: Tally | None = None):
    """Teach the answers of `texts` to `model`, in place; returns it. Raises training.Diverged.

    seed   of the order of the batches, and of dropout where a model has it
    """
    teaching = teaching or Teaching()
    check_texts(model, texts)
    rng = seeding.generator(seed, "teaching")
    steps = -(-len(texts) // teaching.batch_size) * teaching.epochs
    optimiser = torch.optim.AdamW(model.parameters(), lr=teaching.lr, weight_decay=teaching.weight_decay)
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    modes = [(m, m.training) for m in model.modules()]
    model.train()
    with seeding.isolated(seed, "teaching"):
        for index in batches(len(texts), teaching.batch_size, steps, rng):
            batch = texts[index]
            loss = answer_nll(model, batch).sum() / batch.answer.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            annealed.step()
            if tally is not None:
                tally.count("gradient", len(index))
    for module, mode in modes:
        module.training = mode
    model.zero_grad(set_to_none=True)
    check_finite(model)
    return model


def batches(n: int, size: int, steps: int, rng: torch.Generator):
    """`steps` index tensors: shuffled passes over n, the last of a pass may be smaller."""
    done = 0
    while True:
        for index in torch.randperm(n, generator=rng).split(size):
            if done == steps:
                return
            done += 1
            yield index


def answer_nll(model: nn.Module, texts: Texts, tokens: Tensor | None = None, answer: Tensor | None = None) -> Tensor:
    """l, the negative log-likelihood of each answer given its question: [N], in nats.

    tokens, answer   other rows in place of those of `texts`, such as its refusals
    """
    tokens = texts.tokens if tokens is None else tokens
    answer = texts.answer if answer is None else answer
    logits = model(tokens[:, :-1])
    said = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return (said * answer[:, 1:]).sum(1)


@torch.no_grad()
def answer_probability(model: nn.Module, texts: Texts) -> Tensor:
    """p(answer | question)^(1/L) of each text: [N], between 0 and 1. The mode of the model is left as it was."""
    with evaluating(model):
        return torch.exp(-answer_nll(model, texts).double() / texts.lengths())


@torch.no_grad()
def check_texts(model: nn.Module, texts: Texts) -> None:
    """Refuse a model that does not map these word numbers to finite logits. Raises ValueError in one line."""
    if not isinstance(texts, Texts) or not len(texts):
        raise ValueError("there are no texts: use language.Texts.of(pairs) or language.world(...).texts()")
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model must be a torch module from word numbers to logits, not {type(model).__name__}")
    try:
        with evaluating(model):
            logits = model(texts.tokens[:1, :-1])
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"the model does not read texts of {texts.tokens.shape[1]} words: {said}") from None
    wanted = (1, texts.tokens.shape[1] - 1, len(texts.words))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must give logits [texts, words, vocabulary], here {wanted}, not {got}")
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: train it again before it is asked to forget")

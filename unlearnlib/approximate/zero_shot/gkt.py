"""GKT: a new network is taught by the old one, on generated pictures that do not show the forgotten class.

    generator   max_G   KL(p_T(x) || p_S(x)),                     x = G(z),  z ~ N(0, I)
    student     min_S   KL(p_T(x) || p_S(x)) + attention sum_l mean_j (A_l^S(x)_j - A_l^T(x)_j)^2
    filter      of x those pictures stay of which the teacher gives the forgotten classes  sum_c p_T(x)_c <= threshold

T is the trained network, in eval mode; S an untrained one of its architecture; A_l the channel mean of the squared
activations of layer l, divided by its norm. A round is one batch of codes z: one step of the generator and then
`student_steps` of the student, on pictures that are made anew for each. Chundawat et al., IEEE TIFS 2023, arXiv
2201.05629. Limits: student = teacher has loss 0 in both terms; threshold 1 is plain transfer, the class included;
threshold 0 lets nothing pass, and is refused after `retries` batches without a picture. The pictures that pass may
still show the class a little, and the generator looks for where the student knows least: that is a leak.

`as_released` is the authors' loop: the student is in eval mode from the start (an evaluation leaves it so), hence its
batch norms never learn statistics; KL is divided by the number of classes as well. Published is that loop but for one
thing, which would need data: the student's rate halves by its loss on test pictures. The generator's rate halves every
150 rounds, since it is driven by a constant. Not repeated: class 0 as the only one that can be forgotten. After ten
batches in a row of which nothing passes, a generator is stuck, since it gets no gradient: here it is drawn anew, there
it goes back to an earlier state. Layers: those of activation functions whose
output is a map, or else of convolutions. Defaults are ours. Cost: a pass of the generator counts as one of the network.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.approximate.zero_shot import generators
from unlearnlib.approximate.zero_shot.canvas import Canvas
from unlearnlib.approximate.zero_shot.repairing import counts, forgotten, numbers
from unlearnlib.methods.registry import Run, method
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import evaluating, training_mode
from unlearnlib.training.renewal import copied, fresh

GENERATORS = ("perceptron", "convolutional")


@dataclass(frozen=True)
class GKT:
    rounds: int = 400  # each a step of the generator and `student_steps` of the student
    student_steps: int = 10  # in a round
    batch_size: int = 64  # pictures before the filter
    threshold: float = 1e-4  # the largest share of the teacher's answer on forgotten classes that passes
    lr: float = 1e-3  # of Adam, for the student
    generator_lr: float = 1e-3  # of Adam, for the generator
    attention: float = 250.0  # weight of the difference of attention maps
    clip_norm: float = 5.0  # largest norm of a step's gradient, of both networks
    generator: str = "perceptron"  # or "convolutional"
    codes: int = 64  # length of z
    width: int = 128  # of the generator
    halve_every: int | None = None  # rounds after which the generator's rate is halved; None: never
    retries: int = 1000  # batches without a picture that passes, in all, before it is given up
    as_released: bool = False  # the student in eval mode, KL divided by the number of classes

    def __post_init__(self):
        for name, least in (("rounds", 0), ("student_steps", 0), ("batch_size", 2), ("codes", 1), ("width", 2)):
            counts(name, getattr(self, name), least)
        counts("retries", self.retries, 0)
        if self.halve_every is not None:
            counts("halve_every", self.halve_every, 1)
        numbers(self, "attention", "threshold")
        numbers(self, "lr", "generator_lr", "clip_norm", above=0.0)
        if self.threshold > 1:
            raise ValueError(f"threshold is a share of the answer, 0 to 1, not {self.threshold!r}")
        if self.generator not in GENERATORS:
            raise ValueError(f"generator is one of {', '.join(GENERATORS)}, not {self.generator!r}")


def passing(logits: Tensor, gone: Tensor, threshold: float) -> Tensor:
    """Which pictures [B] the filter lets pass, by the teacher's logits [B, C]."""
    return torch.softmax(logits.detach(), dim=1)[:, gone].sum(1) <= threshold


def transfer(student: Tensor, teacher: Tensor, as_released: bool = False) -> Tensor:
    """KL(p_T || p_S) of logits [B, C], the mean over pictures; as released over pictures and classes."""
    # the target in logarithms: the generator's gradient goes through it, and a probability of 0 would have none
    logs = torch.log_softmax(student, 1), torch.log_softmax(teacher, 1)
    return F.kl_div(*logs, reduction="sum", log_target=True) / (student.numel() if as_released else len(student))


def attention(x: Tensor) -> Tensor:
    """The map of activations [B, C, H, W]: their squares' mean over channels, [B, H W], of norm 1 each."""
    return F.normalize(x.square().mean(1).flatten(1))


def attention_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor | float:
    """sum_l mean (A_l^S - A_l^T)^2 over layers."""
    return sum((attention(s) - attention(t)).square().mean() for s, t in zip(student, teacher, strict=True))


@contextlib.contextmanager
def maps(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block a forward pass appends the maps [B, C, H, W] that attention is taken of; clear it before."""
    found: list[Tensor] = []
    activations = [m for m in model.modules() if type(m).__module__ == "torch.nn.modules.activation"]
    layers = activations or [m for m in model.modules() if isinstance(m, nn.Conv2d)]

    def after(_module, _inputs, output) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found.append(output)

    handles = [layer.register_forward_hook(after) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def students(teacher: nn.Module, canvas: Canvas, gone: Tensor, config: GKT, run: Run) -> Iterator[nn.Module]:
    """The student after each round: one network, which the next round changes further. It is first yielded untrained.

    Raises ValueError where `retries` batches held no picture that passes.
    """
    rng, example = run.generator("codes"), canvas.noise(4, run.generator("example"))
    student, teacher = fresh(teacher, run.seed, example), copied(teacher).eval().requires_grad_(False)
    like = next(teacher.parameters())
    with seeding.isolated(run.seed, "generator"):
        make = generators.convolutional if config.generator == "convolutional" else generators.perceptron
        maker = make(config.codes, canvas.shape, config.width).to(like)
    own = [p for p in student.parameters() if p.requires_grad]
    if not own:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    teach, create = torch.optim.Adam(own, lr=config.lr), torch.optim.Adam(maker.parameters(), lr=config.generator_lr)

    def restart(times: int) -> None:
        """A generator of which nothing passes gets no gradient: it is drawn anew."""
        with seeding.isolated(run.seed, "generator", times):
            maker.load_state_dict(make(config.codes, canvas.shape, config.width).to(like).state_dict())
        create.state.clear()

    codes = _Codes(config, rng, like)
    yield student
    for done in range(config.rounds):
        if config.halve_every is not None:
            create.param_groups[0]["lr"] = config.generator_lr * 0.5 ** (max(0, done - 1) // config.halve_every)
        mode = evaluating(student) if config.as_released else training_mode(student, example[:1])
        with mode, torch.enable_grad(), maps(student) as ours, maps(teacher) as theirs:
            for turn in range(1 + config.student_steps):
                for_generator = turn == 0
                with torch.set_grad_enabled(for_generator):
                    x, answer, theirs_kept = codes.next(
                        restart, maker, canvas, teacher, theirs, gone, for_generator, run.tally
                    )
                ours.clear()
                reply = student(x)
                loss = transfer(reply, answer, config.as_released)
                run.tally.count("gradient", len(x))
                if for_generator:
                    loss, optimiser, parameters = -loss, create, list(maker.parameters())
                else:
                    if config.attention:
                        loss = loss + config.attention * attention_loss(ours, theirs_kept)
                    optimiser, parameters = teach, own
                slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
                for p, slope in zip(parameters, slopes, strict=True):
                    p.grad = slope
                nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimiser.step()
        check_finite(student)
        yield student


_STUCK = 10  # batches in a row without a picture that passes


class _Codes:
    """The stream of batches: one batch of codes is used 1 + student_steps times, then drawn anew."""

    def __init__(self, config: GKT, rng: torch.Generator, like: Tensor):
        self.config, self.rng, self.like, self.used, self.empty = config, rng, like, 0, 0
        self.row = 0  # empty batches since the last that was not
        self.z = generators.drawn(config.codes, config.batch_size, rng, like)

    def next(self, restart, maker, canvas, teacher, found: list[Tensor], gone: Tensor, graph: bool, tally):
        """Pictures that pass, the teacher's logits of them, and its maps; retried until there is one."""
        while True:
            if self.used == 1 + self.config.student_steps:
                self.z, self.used = generators.drawn(self.config.codes, len(self.z), self.rng, self.like), 0
            self.used += 1
            found.clear()
            x = canvas.picture(maker(self.z))
            answer = teacher(x)
            tally.count("gradient" if graph else "forward", 2 * len(x))  # through the generator and the teacher
            kept = passing(answer, gone, self.config.threshold)
            if kept.any():
                self.row = 0
                return x[kept], answer[kept], [m[kept] for m in found]
            self.empty, self.row = self.empty + 1, self.row + 1
            if self.row == _STUCK:
                self.row = 0
                restart(self.empty)
            if self.empty > self.config.retries:
                raise ValueError(
                    f"gkt: in {self.empty} batches no picture passed threshold {self.config.threshold:g}: raise it"
                )


@method(
    "gkt",
    GKT,
    family="zero-shot",
    reads="none",
    paper="chundawat2023zero",
    cost=(
        "at most batch_size * (rounds * (3 * gradient + student_steps * (2 * forward + gradient))"
        " + 2 * gradient * (retries + 1))"
    ),
    fails=(
        "Where the filter is loose or the run long: what passes still shows the class a little, and the class comes "
        "back. Nobody without data can see when. For whole classes only."
    ),
    published={
        "rounds": 4000,
        "student_steps": 10,
        "batch_size": 256,
        "threshold": 0.01,
        "lr": 1e-3,
        "generator_lr": 1e-3,
        "attention": 250.0,
        "clip_norm": 5.0,
        "generator": "convolutional",
        "codes": 128,
        "width": 128,
        "halve_every": 150,
        "as_released": True,
    },
    origin="the authors' notebook for MNIST",
    search={"threshold": (1e-5, 1e-2, "log"), "rounds": (100, 600), "lr": (1e-4, 1e-2, "log")},
)
def gkt(model, split, config: GKT, run) -> nn.Module:
    if run.freeze_norms:
        raise ValueError("gkt teaches a new network, whose batch norms must learn: leave freeze_norms at False")
    gone = forgotten("gkt", split)
    canvas = Canvas.of(model, split.train.shape, split.train.limits)
    *_, student = students(model, canvas, gone, config, run)
    return student

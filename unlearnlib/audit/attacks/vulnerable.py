"""Vulnerable and protected examples: an attack on those who have something to lose, beside those who have not.

Most training examples were never exposed: a model that saw them and one that did not answer alike. Averaged over a
random forget set an attack finds little, whatever the method did. So examples are chosen first, from *originals*
alone: with mu_x the standardised gap between margins of originals that were trained on x and of originals that were
not,

    vulnerable: the `size` examples with the largest mu_x,    protected: the `size` ones with the smallest |mu_x|,

and then U-LiRA (`lira`) is run on the unlearned models, in either group. A method that hides only what was hidden
anyway shows as an AUC above 1/2 among the vulnerable and at 1/2 among the protected.

*The choice is made on other models than the attack.* A random share of the originals, with all their unlearnings,
chooses, and the rest is attacked; chosen on the same models, examples would look vulnerable by chance (the winner's
curse).

*Direction*: AUC above 1/2 is residual. *Null*: unlearned models in which forgotten and never seen are alike give 1/2 in
either group. *Power*: that of U-LiRA with `size` examples, at the exposure of the group. *Cost*: none beyond a state
matrix of originals and their unlearnings; half of the models choose.

Naderloui et al. (RULI), arXiv 2506.13009. The published code chooses by the likelihood ratio of one
target model against 128 shadow models of its own (vulnerable: found at a false-positive rate of 1e-4), and attacks
others; here the choice is by the mean effect over models, and the attack is `lira`.
"""

from dataclasses import dataclass, replace

import numpy as np

from unlearnlib.audit.attacks.gaps import standardised_gaps
from unlearnlib.audit.attacks.lira import Lira, lira
from unlearnlib.audit.statistics.intervals import Interval
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.audit.statistics.state import NEVER, RETAIN, check_state
from unlearnlib.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class Group:
    """`examples` [size]: positions; `exposure`: mean mu_x in the models that chose; `before` and `after`: AUC of
    the attack on the originals and on the unlearned models of the rest, with intervals; `attack`: the latter in full.
    """

    examples: np.ndarray
    exposure: float
    before: Interval
    after: Interval
    attack: Lira


@dataclass(frozen=True, eq=False)
class VulnerableAttack:
    """The attack on `vulnerable` and on `protected` examples; `everybody` is the AUC without a choice."""

    vulnerable: Group
    protected: Group
    everybody: Interval
    game: str


def vulnerable_attack(
    originals, unlearned, state, *, size: int, game: str = "B", retrained=None, choosing: float = 0.5, seed: int = 0
) -> VulnerableAttack:
    """Attack the `size` most and the `size` least exposed examples of a state matrix.

    `originals`, `unlearned` and, for game A, `retrained` are margins [models, examples] in the design `state` (a
    StateMatrix, or codes); row m of `originals` is the model that row m of `unlearned` came from. `choosing`: the share
    of the originals that chooses. Raises ValueError for shapes that do not fit, values that are not finite, groups that
    overlap, and what `lira` refuses.
    """
    codes = check_state(state)
    before, after = (as_array(x, np.float64) for x in (originals, unlearned))
    again = None if retrained is None else as_array(retrained, np.float64)
    for name, x in (("originals", before), ("unlearned", after), ("retrained", again)):
        if x is not None and (x.shape != codes.shape or not np.isfinite(x).all()):
            raise ValueError(f"{name} must be finite margins [models, examples] like state {codes.shape}")
    if not 1 <= size <= codes.shape[1] // 2 or isinstance(size, bool):
        raise ValueError(f"two groups of {size} examples do not fit into {codes.shape[1]}: choose 1 to half of them")
    if not 0 < choosing < 1:
        raise ValueError(f"choosing is a share of the originals between 0 and 1, not {choosing}")
    parents = as_array(getattr(state, "parents", np.arange(len(codes))))
    names = numpy_generator(seed, "vulnerable").permutation(np.unique(parents))
    chooses = np.isin(parents, names[: max(int(round(choosing * len(names))), 1)])
    if chooses.all():
        raise ValueError("all originals choose and none is left to attack: lower `choosing` or train more")
    trained = codes != NEVER
    _, first = np.unique(parents, return_index=True)
    rows = np.intersect1d(first, np.flatnonzero(chooses))  # siblings have one original: it counts once
    mu = standardised_gaps(before[rows], trained[rows], ~trained[rows])
    known = np.flatnonzero(~np.isnan(mu))  # a few examples may lack originals of one kind by chance
    if len(known) < 2 * size:
        raise ValueError(f"the originals that choose know {len(known)} examples from either side: train more of them")
    order = known[np.argsort(-mu[known], kind="stable")]
    rest = order[size:]
    groups = {"vulnerable": order[:size], "protected": rest[np.argsort(np.abs(mu[rest]), kind="stable")[:size]]}

    left = ~chooses
    more = {} if again is None else {"retrained": again[left]}
    attack = lira(after[left], codes[left], game=game, parents=parents[left], **more)
    once = np.intersect1d(first, np.flatnonzero(left))
    plain = lira(before[once], np.where(trained[once], RETAIN, NEVER), game="retain")
    found = {
        name: Group(
            np.sort(index),
            float(mu[index].mean()),
            columns(plain, np.sort(index)).interval(),
            columns(attack, np.sort(index)).interval(),
            columns(attack, np.sort(index)),
        )
        for name, index in groups.items()
    }
    return VulnerableAttack(found["vulnerable"], found["protected"], attack.interval(), game)


def columns(attack: Lira, examples: np.ndarray) -> Lira:
    """The same attack, restricted to some of its examples."""
    whole = {name: getattr(attack, name)[:, examples] for name in ("scores", "is_member")}
    each = ("sigma_ratio", "example_auc", "example_advantage", "imbalance")
    return replace(attack, **whole, **{name: getattr(attack, name)[examples] for name in each})

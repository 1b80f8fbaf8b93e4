"""How many examples are still at risk: the distribution behind an average.

"AUC .55" may mean that every forgotten example is a little exposed, or that one in ten is laid bare and nine are safe.
For each example x the leakage is the standardised gap between its margins in unlearned models that forgot it and in
unlearned models that never saw it,

    mu_x = (mean_forgot - mean_never) / s_x,

as many standard deviations as the attacker has to work with, negative where a forgotten example scores *below* an
unseen one. An attacker who sees one model and knows the two laws guesses right with probability Phi(|mu_x| / 2) at
best, so at

    odds of Phi(|mu_x| / 2) to 1 - Phi(|mu_x| / 2);    2 to 1 at |mu_x| = .86, 10 to 1 at 2.67.

*What an oracle shows.* With n models a side mu_x has an error of sqrt(2 / n), so some examples look exposed in
retrained models, too. In a state matrix forgotten and never-seen models of each example are chosen by lot. For a
perfect method the margins do not depend on that lot, so drawing it again, within each example, gives the law of
everything here under an oracle, exactly, with what makes whole models differ, and without training any.

*At least this share.* With F_0 the oracle's distribution function of |mu| and F that of the method: if a share p of the
examples leaks and the others follow F_0, then F_0 - F <= p everywhere. So

    at_least = max_t (F_0(t) - F(t)) - (the 95 % point of that maximum over the oracle's draws)

is exceeded by the true share with probability .95. It counts examples that leak at all, to whatever odds.

*Units*: standard deviations; odds; shares of examples. *Null*: `p_value` is that of a randomisation test of the share
above the odds, and of none at all if `at_least` is 0. *Power*: one fifth of 200 examples at |mu| = 2 is found with 16
models a side (at_least about .1). *Cost*: none beyond a state matrix; 200 draws take a tenth of a second at
48 models, 150 examples.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from unlearnlib.audit.attacks.gaps import standardised_gaps
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.audit.statistics.state import FORGET, NEVER, check_state
from unlearnlib.seeding import numpy_generator


@dataclass(frozen=True, eq=False)
class AtRisk:
    """`mu` [examples], signed; `oracle` [examples]: sorted |mu| of an oracle, averaged over its draws; `threshold`: the
    |mu| of the stated `odds`.

    `share`: of examples above them, beside `oracle_share` and the limit `oracle_high` that an oracle exceeds with
    probability 1 - level; `p_value` of their difference; `at_least`: lower limit of the share that leaks at all.
    `retrained`: mu [examples] of real retrained models in the same design, where these were given.
    """

    mu: np.ndarray
    oracle: np.ndarray
    odds: float
    threshold: float
    share: float
    oracle_share: float
    oracle_high: float
    p_value: float
    at_least: float
    models: int
    retrained: np.ndarray | None = None

    @property
    def odds_of_each(self) -> np.ndarray:
        """The odds of a right guess, for each example: an estimate, with the noise that `oracle` shows."""
        right = ndtr(np.abs(self.mu) / 2)
        return right / (1 - right)

    @property
    def excess(self) -> float:
        """Share above the odds less that of an oracle."""
        return self.share - self.oracle_share


def at_risk(
    unlearned, state, *, odds: float = 2.0, retrained=None, level: float = 0.95, draws: int = 200, seed: int = 0
) -> AtRisk:
    """Per-example leakage of a method, from margins [models, examples] of its unlearned models in the design `state`.

    `odds`: of a right guess, above which an example counts as at risk. Siblings share an original and were not drawn
    independently: the first of each original stands for them. `retrained`: margins of retrained models, same shape.

    Raises ValueError for margins that do not fit or are not finite, odds of 1 or less, a level outside (0, 1), fewer
    than 20 draws, and where an example has fewer than two models of either kind.
    """
    codes = check_state(state)
    x = _margins(unlearned, codes.shape, "unlearned")
    again = None if retrained is None else _margins(retrained, codes.shape, "retrained")
    if not odds > 1 or not np.isfinite(odds):
        raise ValueError(f"a blind guess has odds of 1: give odds above that, not {odds}")
    if not 0 < level < 1 or draws < 20:
        raise ValueError(f"level must lie in (0, 1) and draws be 20 or more, not {level} and {draws}")
    _, rows = np.unique(as_array(getattr(state, "parents", np.arange(len(codes)))), return_index=True)
    codes, x = codes[rows], x[rows]
    forgot, never = codes == FORGET, codes == NEVER
    fewest = int(min(forgot.sum(0).min(), never.sum(0).min()))
    if fewest < 2:
        raise ValueError("every example needs two originals or more that forgot it and two that never saw it")
    mu = standardised_gaps(x, forgot, never)
    rng = numpy_generator(seed, "at-risk")
    null = np.sort([np.abs(standardised_gaps(x, *_redrawn(forgot, never, rng))) for _ in range(draws)], axis=1)
    threshold = 2 * float(ndtri(odds / (1 + odds)))
    share, shares = float((np.abs(mu) > threshold).mean()), (null > threshold).mean(1)
    return AtRisk(
        mu=mu,
        oracle=null.mean(0),
        odds=float(odds),
        threshold=threshold,
        share=share,
        oracle_share=float(shares.mean()),
        oracle_high=float(np.quantile(shares, level, method="higher")),
        p_value=float((1 + (shares >= share).sum()) / (1 + draws)),
        at_least=_at_least(np.sort(np.abs(mu)), null, level),
        models=fewest,
        retrained=None if again is None else standardised_gaps(again[rows], forgot, never),
    )


def _margins(values, shape: tuple[int, int], name: str) -> np.ndarray:
    x = as_array(values, np.float64)
    if x.shape != shape or not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite margins [models, examples] like state {shape}")
    return x


def _redrawn(forgot: np.ndarray, never: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same numbers of forgotten and never-seen models for each example, drawn anew among those that are either."""
    either = forgot | never
    rank = np.argsort(np.argsort(rng.random(forgot.shape) + 2 * ~either, axis=0), axis=0)
    first = either & (rank < forgot.sum(0))
    return first, either & ~first


def _at_least(found: np.ndarray, null: np.ndarray, level: float) -> float:
    """Rows of `null` are the oracle's sorted values; thresholds are quantiles of all of them together."""
    cuts = np.quantile(null, np.linspace(0, 1, 201))
    below = np.stack([np.searchsorted(row, cuts, side="right") for row in null]) / null.shape[1]
    mean = below.mean(0)
    chance = np.quantile((mean - below).max(1), level, method="higher")
    seen = (mean - np.searchsorted(found, cuts, side="right") / len(found)).max()
    return float(max(seen - chance, 0.0))

"""Audits of unlearning: attacks, distances, planted evidence, and the battery which runs them.

Start with `battery` for one unlearned model, `ensemble_audit` for many models of one forget set, and `shadow_audit` for
a state matrix; `summarise` their rows over training seeds and read `verdict_of` the summary. Each instrument has a
module of its own with its definition, its null and its traps; the names below are those that notebooks use. A name
that is both a module and its function (`roc`, `lira`, `klom`, ...) is the function here.
"""

from unlearnlib.audit import canaries, composites, distances, intervals, membership, probes, streisand
from unlearnlib.audit.battery import RUNGS, battery
from unlearnlib.audit.canaries import attack_success, gus, interclass_confusion, mislabelled_exposure
from unlearnlib.audit.composites import Accuracies, accuracy, average_gap, forgetting_score, nomus, tow, tow_mia
from unlearnlib.audit.distances import activation_distance, fisher_ratio, js_divergence, linear_cka, zrf
from unlearnlib.audit.ensembles import ensemble_audit, shadow_audit
from unlearnlib.audit.epsilon import epsilon_from_scores, epsilon_lower_bound, gaussian_epsilon, max_certifiable
from unlearnlib.audit.forgetting_quality import challenge_score, forgetting_quality, forgetting_quality_null
from unlearnlib.audit.interpolated import iam
from unlearnlib.audit.intervals import (
    Interval,
    cluster_bootstrap,
    minimum_detectable_effect,
    paired_t_interval,
    t_interval,
)
from unlearnlib.audit.klom import klom, klom_null
from unlearnlib.audit.lira import lira, shadow_attack
from unlearnlib.audit.membership import (
    entropy_attack,
    loss_attack,
    majority_check,
    modified_entropy,
    rank_attack,
    svc_efficacy,
    swap_advantage,
    two_sided_attack,
)
from unlearnlib.audit.memorisation import memorisation
from unlearnlib.audit.one_run import one_run
from unlearnlib.audit.phantom import Phantom
from unlearnlib.audit.probes import compare_probes, probe_accuracy
from unlearnlib.audit.relearn import log_ain, relearn_curve, relearn_time
from unlearnlib.audit.rmia import rmia
from unlearnlib.audit.roc import clopper_pearson, margin, roc
from unlearnlib.audit.rungs import Relearning
from unlearnlib.audit.scoreboard import scoreboard
from unlearnlib.audit.state import StateMatrix, state_matrix
from unlearnlib.audit.streisand import advantage, onion, tail_mass
from unlearnlib.audit.tidy import COLUMNS, summarise
from unlearnlib.audit.verdict import LABELS, verdict, verdict_of

__all__ = [
    "COLUMNS",
    "LABELS",
    "RUNGS",
    "Accuracies",
    "Interval",
    "Phantom",
    "Relearning",
    "StateMatrix",
    "accuracy",
    "activation_distance",
    "advantage",
    "attack_success",
    "average_gap",
    "battery",
    "canaries",
    "challenge_score",
    "clopper_pearson",
    "cluster_bootstrap",
    "compare_probes",
    "composites",
    "distances",
    "ensemble_audit",
    "entropy_attack",
    "epsilon_from_scores",
    "epsilon_lower_bound",
    "fisher_ratio",
    "forgetting_quality",
    "forgetting_quality_null",
    "forgetting_score",
    "gaussian_epsilon",
    "gus",
    "iam",
    "interclass_confusion",
    "intervals",
    "js_divergence",
    "klom",
    "klom_null",
    "linear_cka",
    "lira",
    "log_ain",
    "loss_attack",
    "majority_check",
    "margin",
    "max_certifiable",
    "membership",
    "memorisation",
    "minimum_detectable_effect",
    "mislabelled_exposure",
    "modified_entropy",
    "nomus",
    "one_run",
    "onion",
    "paired_t_interval",
    "probe_accuracy",
    "probes",
    "rank_attack",
    "relearn_curve",
    "relearn_time",
    "rmia",
    "roc",
    "scoreboard",
    "shadow_attack",
    "shadow_audit",
    "state_matrix",
    "streisand",
    "summarise",
    "svc_efficacy",
    "swap_advantage",
    "t_interval",
    "tail_mass",
    "tow",
    "tow_mia",
    "two_sided_attack",
    "verdict",
    "verdict_of",
    "zrf",
]

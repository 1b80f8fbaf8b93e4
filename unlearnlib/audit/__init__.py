"""Audits of unlearning: attacks, distances, planted evidence, known answers, and the batteries which run them.

Start with `battery` for one unlearned model, `ensemble_audit` for many models of one forget set, and `shadow_audit` for
a state matrix; `summarise` their rows over training seeds and read `verdict_of` the summary. Each instrument has a file
with its definition, its null and its traps, in a folder that says what kind it is.
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what all audits compute with: ROC curves, intervals, epsilon from scores, the state matrix
        "statistics.roc": "clopper_pearson margin roc",
        "statistics.intervals": "intervals Interval cluster_bootstrap "
        "minimum_detectable_effect paired_t_interval t_interval",
        "statistics.epsilon": "epsilon_from_scores epsilon_lower_bound gaussian_epsilon max_certifiable",
        "statistics.state": "StateMatrix state_matrix",
        "statistics.against_null": "AgainstNull against_null detectable_gap",
        # membership attacks: one model, many models, one run; the Streisand effect
        "attacks.membership": "membership entropy_attack loss_attack majority_check "
        "modified_entropy rank_attack svc_efficacy swap_advantage two_sided_attack",
        "attacks.lira": "lira shadow_attack",
        "attacks.rmia": "rmia",
        "attacks.interpolated": "iam",
        "attacks.one_run": "one_run",
        "attacks.streisand": "streisand advantage onion tail_mass",
        "attacks.memorisation": "memorisation",
        "attacks.neighbours": "neighbour_attack",
        "attacks.discriminators": "mia_nn",
        "attacks.vulnerable": "vulnerable_attack",
        "attacks.sequential": "sequential_audit",
        "attacks.gaussian_one_run": "gaussian_one_run",
        # distances between an unlearned and a retrained model: outputs, laws of outputs, features, accuracies
        "distances.outputs": "activation_distance fisher_ratio js_divergence linear_cka zrf",
        "distances.klom": "klom klom_null",
        "distances.forgetting_quality": "challenge_score forgetting_quality forgetting_quality_null",
        "distances.probes": "probes compare_probes probe_accuracy",
        "distances.composites": "composites Accuracies accuracy average_gap forgetting_score nomus tow tow_mia",
        "distances.collapse": "collapse",
        "distances.transfer": "compare_transfer transfer",
        "distances.relative_kernel": "kernel_test",
        # visible evidence: planted canaries, and how fast a model relearns
        "evidence.canaries": "canaries attack_success gus interclass_confusion mislabelled_exposure",
        "evidence.relearn": "log_ain relearn_curve relearn_time",
        "evidence.prototypes": "prototypical_relearning",
        "evidence.over_unlearning": "over_unlearning",
        "evidence.inversion": "inversion",
        # cases whose answer is known, by which audits are audited: phantoms, traps, guarantees from both sides
        "known_answers.phantom": "Phantom",
        "known_answers.traps": "traps",
        "known_answers.sandwich": "sandwich",
        # from rows to a verdict: the tidy schema, its summary, the scoreboard and the four labels
        "verdicts.tidy": "COLUMNS summarise",
        "verdicts.scoreboard": "scoreboard",
        "verdicts.verdict": "LABELS verdict verdict_of",
        "verdicts.at_risk": "at_risk",
        # all audits at once: for one model, for many models of one forget set, for a state matrix
        "batteries.battery": "RUNGS battery",
        "batteries.rungs": "Relearning",
        "batteries.ensembles": "ensemble_audit shadow_audit",
        "distances": "distances",
    },
)

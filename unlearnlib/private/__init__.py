"""Private learners and the accounting behind them.

accounting          epsilon of DP-SGD, calibration of noise, groups
mechanisms          Laplace, Gaussian and gamma-norm noise; sensitivity of regularised losses
perturbation        OutputPerturbation, ObjectivePerturbation   convex, forgets by doing nothing
dpsgd               DpSgd                                       any network, forgets by doing nothing
certified           CertifiedNewton                             convex, Newton steps under a residual budget
descent             DescentToDelete                             convex, gradient steps and published noise
langevin            Langevin                                    convex, noisy gradient steps
noisy_finetuning    NoisyFineTuning                             any network, clipped noisy fine-tuning
rewind              RewindToDelete                              any network of known smoothness, rewinds training
"""

from unlearnlib.private.accounting import (
    Phase,
    Spent,
    calibrate,
    clipping_noise_split,
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_sigma,
    gdp_epsilon,
    group_epsilon,
    group_privacy,
    laplace_delta,
    noise_multiplier,
    spent,
    zcdp_rho,
)
from unlearnlib.private.certified import CertifiedNewton
from unlearnlib.private.descent import DescentToDelete, descent_sigma
from unlearnlib.private.dpsgd import AdaptiveClip, DpSgd, magnitude_mask
from unlearnlib.private.langevin import Langevin, langevin_sigma, langevin_steps
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.private.mechanisms import classic_sigma, erm_sensitivity, leave_one_out_distances
from unlearnlib.private.noisy_finetuning import NoisyFineTuning, noisy_sigma
from unlearnlib.private.perturbation import ObjectivePerturbation, OutputPerturbation
from unlearnlib.private.rewind import RewindToDelete, rewind_distance

__all__ = [
    "AdaptiveClip",
    "BudgetExhausted",
    "CertifiedNewton",
    "DescentToDelete",
    "DpSgd",
    "Langevin",
    "NoisyFineTuning",
    "ObjectivePerturbation",
    "OutputPerturbation",
    "Phase",
    "RewindToDelete",
    "Spent",
    "calibrate",
    "classic_sigma",
    "clipping_noise_split",
    "descent_sigma",
    "epsilon",
    "erm_sensitivity",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_sigma",
    "gdp_epsilon",
    "group_epsilon",
    "group_privacy",
    "langevin_sigma",
    "langevin_steps",
    "laplace_delta",
    "leave_one_out_distances",
    "magnitude_mask",
    "noise_multiplier",
    "noisy_sigma",
    "rewind_distance",
    "spent",
    "zcdp_rho",
]

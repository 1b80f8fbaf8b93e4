"""Private learners and the accounting behind them.

gaussian            one Gaussian, exactly
accounting          epsilon of DP-SGD, calibration of noise, groups; by one of the `accountants`
mechanisms          Laplace, Gaussian and gamma-norm noise; sensitivity of regularised losses
perturbation        OutputPerturbation, ObjectivePerturbation   convex, forgets by doing nothing
dpsgd               DpSgd                                       any network, forgets by doing nothing
certified           CertifiedNewton                             convex, Newton steps under a residual budget
descent             DescentToDelete                             convex, gradient steps and published noise
langevin            Langevin                                    convex, noisy gradient steps
noisy_finetuning    NoisyFineTuning                             any network, clipped noisy fine-tuning
rewind              RewindToDelete                              any network of known smoothness, rewinds training
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # accounting
        "accounting": "Phase Spent calibrate clipping_noise_split epsilon group_epsilon group_privacy noise_multiplier "
        "spent zcdp_rho",
        "gaussian": "gaussian_delta gaussian_epsilon gaussian_sigma gdp_epsilon laplace_delta",
        "mechanisms": "classic_sigma erm_sensitivity leave_one_out_distances",
        # trained privately: forgets by doing nothing
        "dpsgd": "AdaptiveClip DpSgd magnitude_mask",
        "perturbation": "ObjectivePerturbation OutputPerturbation",
        # certified unlearning
        "learner": "BudgetExhausted",
        "certified": "CertifiedNewton",
        "descent": "DescentToDelete descent_sigma",
        "langevin": "Langevin langevin_sigma langevin_steps",
        "noisy_finetuning": "NoisyFineTuning noisy_sigma",
        "rewind": "RewindToDelete rewind_distance",
    },
)

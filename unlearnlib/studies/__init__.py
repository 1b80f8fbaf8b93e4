"""Studies: models of an experiment by name, grids of methods and seeds, audited, and hyper-parameters chosen fairly.

rows = studies.run(Grid([Setting("mnist5k")], ["finetune", "scrub"], seeds=range(3)))
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # models by name, each made once
        "settings": "NULL ORIGINAL RETRAIN Setting original originals retrained retraineds unlearned",
        # grids of them, audited
        "grids": "BASELINES Candidate Cell Grid Model",
        "runs": "run summary",
        # many models with random membership: audits of single examples
        "pools": "pooled",
        # hyper-parameters
        "tuning": "tuning",
        # which method is best, and how surely
        "ranking": "Leaderboard leaderboard",
    },
)

"""Networks, the training loop for one model or many at once, precision, recipes, and where jobs run."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # how a model is trained
        "recipe": "AUGMENTATIONS OPTIMISERS PRECISIONS SCHEDULES Recipe optimiser_of",
        "recipes": "model_for recipe_for",
        # training one model
        "loop": "Part check_finite descend descend_many fit",
        "batches": "Batch augmented minibatches steps_of",
        "work": "UNITS Tally",
        "doors": "Diverged check_model",
        "progress": "progress_bar",
        # training many
        "many": "fit_many",
        # using models
        "modes": "norms_frozen training_mode",
        "models": "models",
        "prediction": "accuracy predict",
        "weights": "load save",
    },
)

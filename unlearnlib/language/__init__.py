"""Language models in miniature: an invented world, a small transformer, its unlearning methods and their metrics."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what is known: invented people, questions about them, and who is to be forgotten
        "texts": "Texts TextSplit",
        "invented": "World world",
        # what knows it: a transformer, and an n-gram model that forgets exactly
        "model": "Teaching Transformer answer_nll answer_probability build fit",
        "ngrams": "NGram",
        # forgetting: a registry of its own
        "losses": "dpo npo simnpo",
        "unlearning": "configure methods unlearn",
        # what is left
        "metrics": "forget_quality oracle_box relearned truth_ratio verdict",
    },
)

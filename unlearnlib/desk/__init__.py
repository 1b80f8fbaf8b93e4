"""The desk: deletion requests from somebody else's pipeline, answered with new weights and a receipt.

recorder = desk.Recorder("record", ids)      # in training: what later requests need
unlearn forget --request ids.csv ...         # plan, new weights, receipt
unlearn verify receipt.json                  # a changed byte is found
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # in training
        "recording": "Recorder restore",
        "callbacks": "lightning_recorder trainer_recorder",
        # requests, and how they may be answered
        "queue": "Batching Queue Request read_requests",
        "admission": "Sizes admissible read_quality",
        # carried out, and proven
        "cases": "Case Policy",
        "execution": "Desk",
        "verifying": "verify",
        # over time
        "streams": "streams",
    },
)

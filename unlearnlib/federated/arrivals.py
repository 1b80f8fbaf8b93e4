"""Requests that arrive between rounds, while training goes on.

    for t, receipts in online(learner, federation, {5: [{"clients": 3}]}, by="eraser"):
        ...                       # after round t and the requests that came after it

With by="retrain" the rounds so far are made again, and the end equals a training that never had those that left, bit
for bit. With by="finetune", rounds=0 the client just leaves, and later rounds wash out what they can.
"""

from collections.abc import Iterator, Mapping, Sequence

from unlearnlib.data import doors
from unlearnlib.federated.fedavg import FedAvg
from unlearnlib.federated.federation import Federation
from unlearnlib.methods.records import Receipt


def online(
    learner: FedAvg, federation: Federation, requests: Mapping[int, Sequence[Mapping]], by: str = "retrain", **options
) -> Iterator[tuple[int, list[Receipt]]]:
    """Train `learner` on `federation`, round by round, and answer requests in between.

    requests  {t: [what `forget` takes, ...]}: they arrive when t rounds have been made, 1 <= t <= learner.rounds
    by        the method of all, with its `options`

    Yields (t, receipts) after each round; the learner is then in the state of that moment. Raises ValueError on a time
    out of range, and as `forget` does.
    """
    for time, listed in requests.items():
        doors.whole(1, learner.rounds, time=time)
        if not isinstance(listed, (list, tuple)) or not all(isinstance(one, Mapping) for one in listed):
            raise ValueError(f'requests are {{5: [{{"clients": 3}}]}}: lists of what forget takes, not {listed!r:.60}')
    learner.fit(federation, rounds=0)
    for t in range(1, learner.rounds + 1):
        learner.advance(1)
        yield t, [learner.forget(by=by, **{**options, **one}) for one in requests.get(t, ())]

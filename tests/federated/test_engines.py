"""Engines: stacked, alone, in processes and on a cluster draw the same batches and differ by rounding."""

import pytest
import torch
from pictures import RECIPE, fitted, network, parts, state

from unlearnlib.federated import engines
from unlearnlib.federated.engines import Processes, Stacked, Task, trained_alone
from unlearnlib.federated.fedavg import FedAvg


class Alone:
    def updates(self, model, federation, tasks):
        return [trained_alone(model, federation.own(task.client), task) for task in tasks]


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"alpha": 0.7}])
def test_stacked_equals_alone_to_rounding(options):
    made = [fitted(double=True, engine=engine, **options) for engine in ("stacked", Alone())]
    assert torch.allclose(state(made[0]), state(made[1]), rtol=0, atol=1e-12)
    for one in made:
        one.forget(indices=[0, 1, 2], by="eraser", interval=1)
    assert torch.allclose(state(made[0]), state(made[1]), rtol=0, atol=1e-12)


def test_a_stack_is_made_where_it_can_be(monkeypatch):
    stacked, original = [], engines.descend_many

    def counted(models, *rest, **named):
        stacked.append(len(models))
        return original(models, *rest, **named)

    monkeypatch.setattr(engines, "descend_many", counted)
    federation = parts(3, n=100)  # 34, 33 and 33 examples: one batch size, one number of steps
    FedAvg(network(), RECIPE, rounds=1).fit(federation)
    assert stacked == [3]


def test_a_cluster_of_dask_equals_the_others():
    distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install '.[cluster]'")
    with distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        made = fitted(rounds=1, double=True, engine="processes", cluster=cluster.scheduler_address)
    assert torch.allclose(state(made), state(fitted(rounds=1, double=True)), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_processes_equal_the_others_and_a_client_that_fails_is_named():
    good = [Task(k, torch.arange(24), RECIPE, k) for k in (0, 2)]
    found = Processes(1).updates(network(double=True), parts(), good)
    for one, other in zip(found, Stacked().updates(network(double=True), parts(), good), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    broken = Task(1, torch.arange(3), RECIPE, -5)  # no generator has a negative seed
    with pytest.raises(RuntimeError, match="client 1 was not trained: ValueError"):
        Processes(1).updates(network(), parts(), [broken])
    with pytest.raises(ValueError, match="non-negative"):
        Stacked().updates(network(), parts(), [broken])

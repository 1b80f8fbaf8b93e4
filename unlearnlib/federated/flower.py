"""Real clients: an engine over a Flower federation, and the app that runs at each client (extra: flower).

    server_app.py                                           client_app.py
        app = ServerApp()                                       app = flower.client_app(load)

        @app.main()                                         load(node_config) -> (its number, a model like the
        def main(grid, context):                                server's, its own Examples)
            engine = flower.Flower(grid)
            FedAvg(model, recipe, engine=engine).fit(federation).forget(clients=1)

Everything that a `FedAvg` does with its clients then goes over the wire, forgetting included: weights and the numbers
of what a client still has go out, an update comes back. At the server only the sizes of `federation` are read (and its
pixels by the door of the model and by `ascent`, which runs there). Flower starts a process for every message, so that a
round costs seconds a client whatever the network is.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unlearnlib._extras import optional
from unlearnlib.data.examples import Examples
from unlearnlib.federated.engines import Task, trained_alone
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.vectors import filled, vector
from unlearnlib.training.recipe import Recipe

_POLL = 0.5  # seconds between two looks for nodes


class Flower:
    """The engine: `updates` by the clients that Flower's `grid` reaches.

    patience  seconds until all clients of the federation have to be there
    timeout   seconds that a round may take

    Raises RuntimeError where a client is not there, fails, or does not answer in time.
    """

    def __init__(self, grid, *, patience: float = 300.0, timeout: float = 3600.0):
        self._grid, self._patience, self._timeout = grid, patience, timeout
        self._nodes: dict[int, int] = {}  # client -> node

    def updates(self, model: nn.Module, federation: Federation, tasks: Sequence[Task]) -> list[Tensor]:
        nodes = self._found(federation.clients)
        weights = vector(model)
        contents = {nodes[task.client]: sent(weights, task) for task in tasks}
        replies = self._asked("train", contents)
        found = {int(reply["task"]["client"]): received(reply) for reply in replies}
        return [found[task.client] for task in tasks]

    def _found(self, count: int) -> dict[int, int]:
        """The node of each client, which is asked for its number once."""
        deadline = time.monotonic() + self._patience
        while len(self._nodes) < count:
            unknown = set(self._grid.get_node_ids()) - set(self._nodes.values())
            if len(unknown) + len(self._nodes) >= count:
                answers = self._asked("query", dict.fromkeys(unknown))
                self._nodes |= {int(a["task"]["client"]): int(a["task"]["node"]) for a in answers}
                missing = set(range(count)) - set(self._nodes)
                if missing:
                    raise RuntimeError(f"no Flower node is client {min(missing)}: give each load() a number of its own")
            elif time.monotonic() > deadline:
                there = len(unknown) + len(self._nodes)
                raise RuntimeError(
                    f"{there} of {count} clients came within {self._patience:g} seconds: start the others"
                )
            else:
                time.sleep(_POLL)
        return self._nodes

    def _asked(self, kind: str, contents: Mapping) -> list:
        app = optional("flwr.app")
        messages = [
            app.Message(content or app.RecordDict(), dst_node_id=node, message_type=kind)
            for node, content in contents.items()
        ]
        replies = list(self._grid.send_and_receive(messages, timeout=self._timeout))
        silent = len(messages) - len(replies)
        if silent:
            raise RuntimeError(f"{silent} clients gave no answer within {self._timeout:g} seconds")
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"node {reply.metadata.src_node_id} failed: {reply.error.reason}")
        return [reply.content for reply in replies]


def client_app(load: Callable[[Mapping], tuple[int, nn.Module, Examples]]):
    """A client's ClientApp; `load(node_config)` gives its number, a model like the server's, and its own examples."""
    app = optional("flwr.app")
    made = optional("flwr.clientapp").ClientApp()

    @made.query()
    def who(message, context):
        number, _, _ = load(context.node_config)
        answer = app.ConfigRecord({"client": number, "node": context.node_id})
        return app.Message(app.RecordDict({"task": answer}), reply_to=message)

    @made.train()
    def train(message, context):
        number, model, own = load(context.node_config)
        weights, task = read(message.content)
        torch.set_num_threads(1)
        update = trained_alone(filled(model, weights), own, task)
        return app.Message(sent(update, dataclasses.replace(task, client=number)), reply_to=message)

    return made


def sent(values: Tensor, task: Task):
    """A vector and a task as records; nothing is pickled."""
    app = optional("flwr.app")
    facts = {
        "client": task.client,
        "number": task.number,
        "within": np.ascontiguousarray(task.within.numpy(), dtype="<i8").tobytes(),
        "recipe": json.dumps(dataclasses.asdict(task.recipe)),
    }
    vectors = app.ArrayRecord({"values": app.Array(values.numpy())})
    return app.RecordDict({"vector": vectors, "task": app.ConfigRecord(facts)})


def received(content) -> Tensor:
    """The vector in a message."""
    return torch.from_numpy(content["vector"]["values"].numpy().copy())


def read(content) -> tuple[Tensor, Task]:
    """What `sent` has written."""
    facts = content["task"]
    within = torch.from_numpy(np.frombuffer(facts["within"], dtype="<i8").copy())
    recipe = Recipe(**json.loads(facts["recipe"]))
    return received(content), Task(int(facts["client"]), within, recipe, int(facts["number"]))

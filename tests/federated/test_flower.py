"""The Flower engine: a real SuperLink and two SuperNodes on loopback, equal to the stacked engine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import fitted, network

from unlearnlib.federated.engines import Task
from unlearnlib.federated.vectors import vector
from unlearnlib.training.recipe import Recipe

pytest.importorskip("flwr", reason="flwr is not installed: pip install '.[flower]' in an environment of its own")

from unlearnlib.federated import flower

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
PROGRAMS = Path(sys.executable).parent
LIMIT = 1200  # seconds for all of it; a process is started for each message, and machines are slow at times

APP = {
    "pyproject.toml": """
[project]
name = "federation"
version = "1.0.0"
license = "MIT"
dependencies = []
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"
[tool.flwr.app.config]
result = ""
""",
    "server_app.py": """
import numpy as np
from flwr.serverapp import ServerApp
from pictures import fitted
from unlearnlib.federated.flower import Flower
app = ServerApp()

@app.main()
def main(grid, context):
    made = fitted(rounds=2, double=True, clients=2, engine=Flower(grid))
    trained = made._weights.numpy()
    receipt = made.forget(indices=[0, 1, 2], by="finetune", rounds=1)
    path = context.run_config["result"]
    with open(path + ".part", "wb") as file:
        np.savez(file, trained=trained, forgot=made._weights.numpy(), sent=receipt.touched["bytes sent"])
    import os
    os.replace(path + ".part", path)
""",
    "client_app.py": """
from pictures import network, parts
from unlearnlib.federated.flower import client_app

def load(node_config):
    number = int(node_config["client"])
    return number, network(seed=5, double=True), parts(2).own(number)  # its weights are not the server's

app = client_app(load)
""",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(name: str, *arguments: str, environment, log: Path):
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PROGRAMS / name), *arguments], env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_task_travels_as_it_is():
    recipe = Recipe(2, 8, "sgd", 0.1, 0.0, 0.0, "step-decay", milestones=(1, 3), clip_norm=2.0)
    task = Task(3, torch.tensor([4, 9, 11]), recipe, 2**61 + 7)
    weights, back = flower.read(flower.sent(vector(network(double=True)), task))
    assert torch.equal(weights, vector(network(double=True))) and weights.dtype == torch.float64
    assert back.client == 3 and back.number == task.number and back.recipe == recipe
    assert torch.equal(back.within, task.within)


class Nobody:
    def get_node_ids(self):
        return [1]


def test_clients_that_do_not_come_are_missed_in_one_line():
    with pytest.raises(RuntimeError, match="1 of 2 clients came within 0 seconds"):
        fitted(clients=2, engine=flower.Flower(Nobody(), patience=0))


@pytest.mark.slow
def test_a_superlink_and_two_supernodes_equal_the_stacked_engine(tmp_path):
    app, home, result = tmp_path / "app", tmp_path / "home", tmp_path / "result.npz"
    for folder in (app, home):
        folder.mkdir()
    for name, text in APP.items():
        (app / name).write_text(text)
    port, ports = free_port(), [free_port(), free_port()]
    (home / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    paths = [str(TREE), str(TREE / "tests"), str(HERE)]
    quiet = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1"}
    environment["PATH"] = os.pathsep.join([str(PROGRAMS), environment.get("PATH", "")])
    with contextlib.ExitStack() as stack:

        def start(name, *arguments, log):
            return stack.enter_context(
                started(name, "--insecure", *arguments, environment=environment, log=tmp_path / log)
            )

        link = ["--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation"]
        processes = [start("flower-superlink", *link, log="link.log")]
        deadline = time.monotonic() + LIMIT
        while not answers(port):
            assert processes[0].poll() is None and time.monotonic() < deadline, (tmp_path / "link.log").read_text()[
                -2000:
            ]
            time.sleep(0.5)
        for k in (0, 1):
            node = ["--superlink", f"127.0.0.1:{port}", "--port", str(ports[k]), "--node-config", f"client={k}"]
            processes.append(start("flower-supernode", *node, log=f"node{k}.log"))
        run = [str(PROGRAMS / "flwr"), "run", str(app), "here", "--run-config", f'result="{result}"']
        said = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=LIMIT)
        assert said.returncode == 0, said.stdout[-1000:] + said.stderr[-1000:]
        while not result.exists():
            logs = "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in tmp_path.glob("*.log"))
            assert all(p.poll() is None for p in processes) and time.monotonic() < deadline, logs
            time.sleep(1)
    found = np.load(result)
    wanted = fitted(rounds=2, double=True, clients=2)
    assert np.allclose(found["trained"], wanted._weights.numpy(), rtol=0, atol=1e-12)
    receipt = wanted.forget(indices=[0, 1, 2], by="finetune", rounds=1)
    assert np.allclose(found["forgot"], wanted._weights.numpy(), rtol=0, atol=1e-12)
    assert int(found["sent"]) == receipt.touched["bytes sent"]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

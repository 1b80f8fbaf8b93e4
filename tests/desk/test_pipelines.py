"""The whole way, as an engineer goes it: train with a recorder in a loop of one's own, in Lightning or in `Trainer`;
delete three batches of ids by the command line, killed once in the middle; verify the receipts; find a tampered one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small
import torch
import torch.nn.functional as F

from unlearnlib import __main__ as program
from unlearnlib.data.examples import Examples
from unlearnlib.desk import recording
from unlearnlib.desk.callbacks import lightning_recorder, trainer_recorder
from unlearnlib.desk.recording import Recorder

ROOT = Path(__file__).resolve().parents[2]
N, SIZE, EPOCHS = 96, 16, 12
IDS = tuple(f"jane-{k}" for k in range(N))
NETWORK = '''"""The pipeline's own network."""
from torch import nn
def Net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                         nn.Linear(64, 3))
'''


def network(place: Path):
    space: dict = {}
    exec((place / "their_net.py").read_text(), space)
    torch.manual_seed(0)
    return space["Net"]()


def data(place: Path) -> Examples:
    for name, seed in (("train", 0), ("held", 1)):
        part = small.examples(N, side=32, channels=3, seed=seed)
        pictures = part.images.permute(0, 2, 3, 1).numpy()
        np.savez(place / f"{name}.npz", images=pictures, labels=part.labels.numpy(), ids=np.array(IDS))
    return small.examples(N, side=32, channels=3)


class Rows(torch.utils.data.Dataset):
    def __init__(self, examples: Examples):
        self.pixels, self.labels = examples.pixels(), examples.labels

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.pixels[i], self.labels[i], i


def with_torch(place: Path, recorder: Recorder, examples: Examples) -> list[str]:
    model = network(place)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = torch.utils.data.DataLoader(Rows(examples), SIZE, shuffle=True)
    recorder.begin(model, optimiser)
    for _ in range(EPOCHS):
        for pixels, labels, index in loader:
            optimiser.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimiser.step()
            recorder.step(model, index, optimiser)
    recorder.end(model)
    safetensors.torch.save_model(model, str(place / "w.safetensors"))
    return ["--model", "their_net:Net", "--weights", "w.safetensors"]


def with_lightning(place: Path, recorder: Recorder, examples: Examples) -> list[str]:
    pytorch = pytest.importorskip("lightning.pytorch", reason="the extra desk is not installed")

    class Module(pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network(place)

        def training_step(self, batch, number):
            pixels, labels, _ = batch
            return F.cross_entropy(self.net(pixels), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    module = Module()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pytorch.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        default_root_dir=place,
        callbacks=[lightning_recorder(recorder, lambda batch: batch[2])],
        **quiet,
    )
    trainer.fit(module, torch.utils.data.DataLoader(Rows(examples), SIZE, shuffle=True))
    safetensors.torch.save_model(module.net, str(place / "w.safetensors"))
    return ["--model", "their_net:Net", "--weights", "w.safetensors"]


def with_trainer(place: Path, recorder: Recorder, examples: Examples) -> list[str]:
    transformers = pytest.importorskip("transformers", reason="the extra desk is not installed")
    pytest.importorskip("accelerate", reason="the extra desk is not installed")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_channels=3, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config)
    rows = Rows(examples)
    settings = transformers.TrainingArguments(
        output_dir=str(place / "runs"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_strategy="no",
    )
    listed = [{"pixel_values": p, "labels": y, "position": i} for p, y, i in (rows[k] for k in range(N))]
    trainer = transformers.Trainer(model, settings, train_dataset=listed, callbacks=[trainer_recorder(recorder)])
    trainer.train()
    model.save_pretrained(place / "theirs")
    return ["--model", "hf:theirs"]


def told(capsys, *words: str) -> tuple[int, str]:
    try:
        status = program.main(list(words))
    except SystemExit as end:
        status = end.code
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return status, found.out + found.err


def killed(words: list[str], place: Path, once_there: Path) -> None:
    """Run a command in a process of its own, and kill it as soon as a file is there."""
    running = subprocess.Popen(
        [sys.executable, "-m", "unlearnlib", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{place}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 300
    while not once_there.exists():
        assert running.poll() is None, running.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("train", [with_torch, with_lightning, with_trainer], ids=["torch", "lightning", "trainer"])
def test_from_training_to_a_verified_receipt(train, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_net", raising=False)
    (tmp_path / "their_net.py").write_text(NETWORK)
    examples = data(tmp_path)
    recorder = Recorder("record", IDS, every=6, updates=IDS[:4], budget=10**8)
    named = train(tmp_path, recorder, examples)
    record = recording.read("record")
    assert record.steps == EPOCHS * N // SIZE
    for epoch in range(EPOCHS):  # each epoch saw everybody once, in an order of its own
        seen = torch.cat(record.order[epoch * N // SIZE : (epoch + 1) * N // SIZE])
        assert seen.sort().values.tolist() == list(range(N))
    assert record.kept == IDS[:4]

    words = ["forget", *named, "--data", "npz:train.npz", "--held-out", "npz:held.npz", "-o", "desk"]
    words += ["--policy", "finetune", "-p", "epochs=40", "-p", "batch_size=8"]
    for k, who in enumerate([(0, 1, 2), (5,), (40, 41)], 1):
        Path(f"{k}.txt").write_text("".join(f"{IDS[i]}\n" for i in who))
        asked = [*words, "--request", f"{k}.txt"]
        if k == 2:
            killed(asked, tmp_path, tmp_path / "desk/0002/plan.json")
            assert not Path("desk/0002/receipt.json").exists()
            status, out = told(capsys, "queue", "desk", "--state", "running")
            assert status == 0 and out.count("running") == 1
        status, out = told(capsys, *asked)
        assert status == 0 and "done: " in out, out
    whole = [*words[:-6], "-o", "whole", *words[-6:]]  # the same three, never killed
    for k in (1, 2, 3):
        assert told(capsys, *whole, "--request", f"{k}.txt")[0] == 0
        same = [Path(f"{home}/000{k}/model.safetensors").read_bytes() for home in ("desk", "whole")]
        assert same[0] == same[1]
        status, out = told(capsys, "verify", f"desk/000{k}/receipt.json")
        assert status == 0 and "FAILS" not in out and "unchecked" not in out, out
    path = Path("desk/0002/receipt.json")
    assert "jane" not in path.read_text()
    receipt = json.loads(path.read_text())
    path.write_text(path.read_text().replace(receipt["model"]["after"], "0" * 64))
    status, out = told(capsys, "verify", str(path))
    assert status == 1 and "FAILS" in out
    status, out = told(capsys, *asked[:-1], "nobody.txt")
    assert status == 2 and out.count("\n") == 1

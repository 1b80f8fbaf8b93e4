"""The recorder changes nothing, and what it kept does what it was kept for."""

import json

import pytest
import small
import torch
import torch.nn.functional as F
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import amnesiac
from unlearnlib.desk import recording
from unlearnlib.desk.recording import Recorder
from unlearnlib.training import models
from unlearnlib.training.recipe import Recipe

PARTS = small.split(n=60, forget=6)
IDS = [f"e{k}" for k in range(60)]


def network() -> nn.Module:
    return models.build("mlp", small.dataset(n=60), seed=0, hidden=[6])


def trained(recorder=None, order=None, start=None, keep=None, momentum=0.9):
    """A plain loop of somebody else: SGD over given batches, perhaps without some examples, perhaps rewound."""
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    if start is not None:
        recording.restore(start, model, optimiser)
    if recorder is not None:
        recorder.begin(model, optimiser)
    pixels, labels = PARTS.train.pixels(), PARTS.train.labels
    for index in order:
        index = index if keep is None else index[keep[index]]
        if len(index):
            optimiser.zero_grad()
            F.cross_entropy(model(pixels[index]), labels[index]).backward()
            optimiser.step()
        if recorder is not None:
            recorder.step(model, index, optimiser)
    if recorder is not None:
        recorder.end(model, PARTS.train, optimiser)
    return model


def batches(epochs=3, size=10, late=()):
    """Shuffled batches; the examples in `late` come in the last epoch alone."""
    rng, found = torch.Generator().manual_seed(0), []
    for epoch in range(epochs):
        order = torch.randperm(60, generator=rng)
        if epoch < epochs - 1:
            order = order[~torch.isin(order, torch.tensor(late, dtype=torch.long))]
        found += list(order.split(size))
    return found


def test_training_goes_on_bit_for_bit(tmp_path):
    before = torch.random.get_rng_state()
    recorded = trained(Recorder(tmp_path, IDS, every=4, updates=IDS[:9], budget=10**6), batches())
    assert small.same(small.state(recorded), small.state(trained(order=batches())))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_order_is_kept_whatever_the_number_of_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_FLUSH", 5)
    order = batches()
    trained(Recorder(tmp_path, IDS), order)
    found = recording.read(tmp_path)
    assert found.steps == len(order) and all(map(torch.equal, found.order, order))
    assert len(list((tmp_path / "order").iterdir())) > 3


def test_accumulated_batches_belong_to_one_step(tmp_path):
    recorder, model = Recorder(tmp_path, IDS), network()
    recorder.begin(model)
    recorder.seen([1, 2])
    recorder.seen(torch.tensor([3]))
    recorder.step(model)
    with pytest.raises(ValueError, match="needs the positions of its batch"):
        recorder.step(model)
    recorder.end(model)
    assert [batch.tolist() for batch in recording.read(tmp_path).order] == [[1, 2, 3]]


def test_rewinding_is_training_without_the_examples_bit_for_bit(tmp_path):
    """Where the ids come late: from the newest checkpoint that they have not touched, optimiser and all."""
    late = [3, 17]
    order = batches(late=late)
    trained(Recorder(tmp_path, IDS, every=2), order)
    path, rest = recording.read(tmp_path).rest(["e3", "e17"])
    first = next(t for t, batch in enumerate(order) if torch.isin(batch, torch.tensor(late)).any())
    assert int(path.stem) == first - first % 2 > 0
    keep = torch.ones(60, dtype=torch.bool)
    keep[late] = False
    rewound = trained(order=list(rest), start=path)
    assert small.same(small.state(rewound), small.state(trained(order=order, keep=keep)))
    early, _ = recording.read(tmp_path).rest([IDS[int(order[0][0])]])
    assert int(early.stem) == 0  # the null: an example of the first batch leaves nothing to save


def test_updates_are_those_of_the_method_that_takes_them_back(tmp_path):
    recipe = Recipe(epochs=2, batch_size=10, optimiser="sgd", lr=0.1, schedule="constant", weight_decay=0.0)
    start = network()
    model, wanted = amnesiac.fit_recording(start, PARTS.train, recipe, 0, candidates=PARTS.forget_index, progress=False)
    ids = [IDS[i] for i in PARTS.forget_index.tolist()]
    recorder = Recorder(tmp_path, IDS, updates=ids, budget=10**7)
    recorder.begin(start)

    class Watch(amnesiac.Part):
        def after_step(self, model, step):
            recorder.step(model, self.index)
            return False

    watch = Watch()

    def watched(order):
        for batch in order:
            watch.index = batch.index
            yield batch

    rng = amnesiac.seeding.generator(0, "order")
    order = (amnesiac.Batch(i, PARTS.train.labels[i]) for i in amnesiac.minibatches(60, 10, 2, rng))
    again = amnesiac.descend(network(), PARTS.train, watched(order), recipe, 12, seed=0, parts=(watch,))
    recorder.end(again)
    assert small.same(small.state(model), small.state(again))
    split = small.replace(PARTS, index=torch.arange(60))
    found = recording.read(tmp_path).updates_for(IDS, split)
    assert found.checksum == wanted.checksum and torch.equal(found.candidates, wanted.candidates)
    assert all(map(torch.equal, found.batches, wanted.batches)) and len(found.updates) == len(wanted.updates) > 3
    assert all(map(torch.equal, found.updates, wanted.updates))
    done = ul.unlearn("amnesiac", model, split, seed=0, record=found, epochs=0)
    assert not small.same(small.state(model), small.state(done.model))


def test_a_spent_budget_is_told_by_the_ids_that_it_covers(tmp_path):
    size = 4 * sum(p.numel() for p in network().parameters())
    trained(Recorder(tmp_path, IDS, updates=IDS[:9], budget=2 * size), batches())
    told = json.loads((tmp_path / "record.json").read_text())
    assert told["bytes of updates"] == 2 * size and len([*(tmp_path / "updates").iterdir()]) == 2
    split = small.replace(PARTS, index=torch.arange(60))
    found = recording.read(tmp_path).updates_for(IDS, split)
    assert not found.candidates.any()  # each has steps after the second
    with pytest.raises(ValueError, match="lacks some of the forget set"):
        ul.unlearn("amnesiac", network(), split, seed=0, record=found)


def test_steps_with_an_example_that_is_gone_are_not_taken_back_twice(tmp_path):
    trained(Recorder(tmp_path, IDS, updates=IDS, budget=10**8), batches())
    record = recording.read(tmp_path)
    kept = torch.arange(1, 60)
    split = small.replace(PARTS, train=PARTS.train[kept], is_forget=PARTS.is_forget[kept], index=kept)
    found = record.updates_for(IDS, split)
    without = [batch for batch in record.order if not (batch == 0).any()]
    assert [b.tolist() for b in found.batches] == [(b - 1).tolist() for b in without]


def test_importances_are_the_fisher_diagonal_of_the_last_weights(tmp_path):
    model = trained(Recorder(tmp_path, IDS), batches())
    wanted = recording.fisher_diagonal(model, PARTS.train, "empirical")
    assert torch.equal(recording.read(tmp_path).importance(), wanted)


def test_what_is_no_whole_record_is_one_line(tmp_path):
    recorder = Recorder(tmp_path / "a", IDS)
    recorder.begin(network())
    with pytest.raises(ValueError, match="did not end: call end"):
        recording.read(tmp_path / "a")
    recorder.step(network(), [1])
    recorder.end(network())
    with pytest.raises(ValueError, match="another training: choose a new folder"):
        Recorder(tmp_path / "a", IDS)
    place = tmp_path / "a" / "record.json"
    place.write_text(place.read_text().replace('"e3"', '"e5x"'))
    with pytest.raises(ValueError, match="was changed"):
        recording.read(tmp_path / "a")
    with pytest.raises(ValueError, match="No such file"):
        recording.read(tmp_path / "b")
    for ids, more, said in ((["x", "x"], {}, "tell the examples apart"), (IDS, {"updates": ["no"]}, "none of the ids")):
        with pytest.raises(ValueError, match=said):
            Recorder(tmp_path / "c", ids, **more)
    with pytest.raises(ValueError, match="out of range"):
        recorder.seen([60])


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    trained(Recorder(tmp_path, IDS), batches())
    path, _ = recording.read(tmp_path).rest(IDS[:1])
    with pytest.raises(ValueError, match="of another network"):
        recording.restore(path, nn.Linear(2, 2))

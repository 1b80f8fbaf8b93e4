"""Drawn faces: the geometry, the dial, what stays the same, and whether they can be learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from unlearnlib import data
from unlearnlib.data import cartoon
from unlearnlib.seeding import generator, numpy_generator


@pytest.fixture(scope="module")
def faces():
    return data.load("cartoon_faces")


def test_an_ellipse_covers_its_area():
    size, a, b = 64, 0.5, 0.3
    grid = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = np.broadcast_arrays(grid[None, None, :], grid[None, :, None])
    rgb = np.zeros((1, 3, size, size), np.float32)
    canvas = cartoon._Canvas(rgb, x.astype(np.float32), y.astype(np.float32), np.float32(2 / size))
    canvas.paint(cartoon._ellipse(canvas.x, canvas.y, a, b), [1.0, 0.5, 0.0])
    area = rgb.sum((0, 2, 3)) * (2 / size) ** 2
    assert area == pytest.approx([np.pi * a * b, np.pi * a * b / 2, 0], rel=3e-3)


def test_ellipse_distance_is_exact_at_the_edge_and_signed():
    angle = np.linspace(0, 6, 50, dtype=np.float32)
    for scale in (1.0, 1.01, 0.99):
        x, y = 0.5 * scale * np.cos(angle), 0.5 * scale * np.sin(angle)
        distance = cartoon._ellipse(x, y, 0.5, 0.5)
        assert distance == pytest.approx(np.full(50, 0.5 * (scale - 1)), abs=2e-5 + 0.5 * 0.01**2)


def test_four_in_a_row_have_all_combinations_of_bits():
    bits = cartoon.bits(40, seed=3)
    for block in bits.reshape(10, 4, 2):
        assert {tuple(pair) for pair in block.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert np.array_equal(cartoon.bits(7, seed=3), bits[:7])


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_dial_is_the_correlation_of_attribute_and_bit(rho):
    bits, each = cartoon.bits(200), 100
    shots = [cartoon.pictures(each, bits[k], rho, numpy_generator(0, "dial", k)) for k in range(len(bits))]
    for i, name in enumerate(("smile", "glasses")):
        attribute = np.concatenate([getattr(s, name) for s in shots])
        agreement = (2 * attribute - 1) * (2 * np.repeat(bits[:, i], each) - 1)
        spread = (1 - rho**2) ** 0.5 / len(agreement) ** 0.5
        assert agreement.mean() == pytest.approx(rho, abs=4 * spread + 1e-12)
        correlation = np.corrcoef(attribute, np.repeat(bits[:, i], each))[0, 1]
        assert correlation == pytest.approx(rho, abs=4 * spread + 1e-9)


def test_the_dial_reaches_the_data_set_and_moves_nothing_else():
    free, tied = (data.load("cartoon_faces", people=8, per_person=12, correlation=rho) for rho in (0.0, 1.0))
    for name in ("smile", "glasses"):
        assert torch.equal(tied.train.attributes[name], tied.train.attributes[f"{name}_bit"])
        assert not torch.equal(free.train.attributes[name], free.train.attributes[f"{name}_bit"])
    same = torch.ones(len(free.train), dtype=torch.bool)
    for name in ("smile", "glasses"):
        same &= free.train.attributes[name] == tied.train.attributes[name]
    assert 0 < same.sum() < len(same)
    assert torch.equal(free.train.images[same], tied.train.images[same])


def test_people_and_pictures_keep_when_more_are_drawn():
    small = data.load("cartoon_faces", people=4, per_person=6)
    large = data.load("cartoon_faces", people=6, per_person=9, task="identity")
    part = large.train.images.reshape(6, 9, 3, 32, 32)[:4, :6].flatten(0, 1)
    assert torch.equal(small.train.images, part)
    assert torch.equal(large.train.labels, large.train.groups)
    assert small.checksum() == data.load("cartoon_faces", people=4, per_person=6).checksum()
    assert small.checksum() != data.load("cartoon_faces", people=4, per_person=6, seed=1).checksum()


def test_layout_of_the_data_set(faces):
    assert len(faces.train) == 1200 and faces.shape == (3, 32, 32) and faces.train.images.dtype == torch.uint8
    assert torch.bincount(faces.train.groups).tolist() == [30] * 40
    seen = faces.test.attributes["seen"] == 1
    assert set(faces.test.groups[seen].tolist()) == set(range(40)) == set(faces.train.groups.tolist())
    assert set(faces.test.groups[~seen].tolist()) == set(range(40, 60))
    assert (faces.train.attributes["seen"] == 1).all() and len(faces.test) == 600
    assert torch.equal(faces.train.labels, faces.train.attributes["smile"])
    assert torch.equal(faces.train.attributes["identity"], faces.train.groups)
    assert (data.overlap(data.split(faces)).to_numpy() == 0).all(), "no picture is drawn twice"
    stranger_free = data.load("cartoon_faces", people=4, per_person=3, task="identity")
    assert len(stranger_free.test) == 4 and stranger_free.class_names == tuple(f"person {k}" for k in range(4))
    assert data.load("cartoon_faces", people=2, per_person=1, size=64, task="glasses").shape == (3, 64, 64)


def redrawn(changes: dict, size=64, count=24):
    """Pictures of upright faces before and after a change, with the same noise."""
    shots = cartoon.pictures(count, np.array([0, 0]), 1.0, numpy_generator(5))
    still = {name: np.zeros(count) for name in ("shift_x", "shift_y", "angle", "gape")} | {"scale": np.ones(count)}
    before = dataclasses.replace(shots, **still)
    after = dataclasses.replace(before, **{k: np.full(count, v) for k, v in changes.items()})
    return [cartoon.draw(cartoon.person(2), s, size, numpy_generator(6)).astype(int) for s in (before, after)]


def test_a_smile_changes_the_mouth_and_glasses_the_eyes_only():
    for changes, top, bottom in (({"smile": 1, "bend": 0.16}, 0.15, 0.55), ({"glasses": 1}, -0.45, 0.25)):
        before, after = redrawn(changes)
        changed = (before != after).any(axis=(0, 1))
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) / 32 - 1 for axis in (1, 0))
        assert len(rows) > 4 and top < rows.min() and rows.max() < bottom and np.abs(columns).max() < 0.75


def test_corners_of_a_smiling_mouth_are_higher_than_its_middle():
    neutral, smiling = redrawn({"smile": 1, "bend": 0.18})
    height = np.arange(64)[None, :, None]
    ink = np.clip(neutral.mean(1) - smiling.mean(1), 0, None) * (height > 36)  # darker than it was: the new lips
    level = (ink * height).sum(1) / np.maximum(ink.sum(1), 1e-9)
    middle, corners = level[:, 30:34].mean(), level[:, [26, 37]].mean()
    assert corners < middle - 2


def test_open_mouths_and_smiles_are_independent():
    shots = cartoon.pictures(4000, np.array([0, 0]), 0.0, numpy_generator(1))
    opened = shots.gape > 0
    assert abs(np.corrcoef(opened, shots.smile)[0, 1]) < 4 / 4000**0.5
    assert ((shots.bend > 0.1) == (shots.smile == 1)).all() and (shots.bend[shots.smile == 0] <= 0.02).all()


def test_draws_ignore_and_leave_the_global_generators():
    def states():
        return torch.random.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002

    before = states()
    data.load("cartoon_faces", people=2, per_person=2)
    assert states() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "at least 16"),
        ({"people": 1}, "at least 2"),
        ({"per_person": 2.5}, "whole number"),
        ({"correlation": 1.2}, "between 0 and 1"),
        ({"correlation": float("nan")}, "between 0 and 1"),
        ({"task": "hat"}, "smile, glasses or identity"),
        ({"peple": 3}, "did you mean 'people'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("cartoon_faces", **options)


def test_a_smile_is_no_matter_of_single_pixels(faces):
    """A linear classifier stays far from solving it (chance is 0.5); the network below does better."""
    from sklearn.linear_model import LogisticRegression

    pixels, unseen = (part.pixels().flatten(1).numpy() for part in (faces.train, faces.test))
    model = LogisticRegression(C=0.01, max_iter=50).fit(pixels, faces.train.labels)
    assert 0.5 < model.score(unseen, faces.test.labels) < 0.72


def test_people_can_be_told_apart():
    """By the nearest mean face alone, eight times as often as by chance (1/40)."""
    ds = data.load("cartoon_faces", task="identity")
    means = torch.stack([ds.train.pixels(ds.train.labels == k).mean(0) for k in range(40)]).flatten(1)
    nearest = torch.cdist(ds.test.pixels().flatten(1), means).argmin(1)
    assert (nearest == ds.test.labels).float().mean() > 0.2


@pytest.mark.slow
def test_a_small_network_learns_to_see_a_smile(faces):
    from torch import nn

    def layer(a, b):
        return [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = [nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 2)]
        net = nn.Sequential(*layer(3, 16), *layer(16, 32), *layer(32, 64), *head)
    adam, rng = torch.optim.Adam(net.parameters(), 2e-3), generator(0)
    pixels = faces.train.pixels() - 0.5
    for _ in range(20):
        for batch in torch.randperm(len(pixels), generator=rng).split(64):
            loss = nn.functional.cross_entropy(net(pixels[batch]), faces.train.labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
    with torch.no_grad():
        right = (net(faces.test.pixels() - 0.5).argmax(1) == faces.test.labels).float()
    seen = faces.test.attributes["seen"] == 1
    assert right[seen].mean() > 0.9 and right[~seen].mean() > 0.85

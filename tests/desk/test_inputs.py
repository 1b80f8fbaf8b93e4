"""Data and networks of other people: read as they are, refused in one line."""

import numpy as np
import pytest
import safetensors.torch
import small
import torch
import torchvision
from PIL import Image

from unlearnlib.desk import networks, sources
from unlearnlib.training import models, weights
from unlearnlib.training.prediction import predict


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for name in ("10 dogs", "2 cats"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{k}.png"
                )
    return tmp_path


def test_a_folder_is_read_with_paths_as_ids(folder):
    found = sources.opened(f"folder:{folder}", size=8)
    assert found.ids[0] == "train/2 cats/0.png" and found.class_names == ("2 cats", "10 dogs")
    assert found.examples.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.examples.shape == (3, 8, 8)
    assert len(found.held_out) == 4
    wanted = sources.folders.folder(str(folder), size=8)  # the order and the pixels of `data.load("folder:...")`
    assert torch.equal(found.examples.images, wanted.train.images) and torch.equal(
        found.held_out.images, wanted.test.images
    )


def test_an_archive_is_read_with_its_ids(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(6) % 2, ids=np.array([f"p{k}" for k in range(6)]))
    found = sources.opened(f"npz:{tmp_path / 'a.npz'}")
    assert found.ids == tuple(f"p{k}" for k in range(6)) and found.examples.images.shape == (6, 1, 8, 8)
    assert torch.equal(found.examples.images[:, 0], torch.from_numpy(images)) and found.held_out is None
    assert found.positions(["p4", "p1", "p4"]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="1 of 2 ids are not in the data, such as 'jane'"):
        found.positions(["p1", "jane"])
    names = np.array(["b", "a"] * 3)
    np.savez(tmp_path / "b.npz", images=images, labels=names)
    assert sources.opened(f"npz:{tmp_path / 'b.npz'}").examples.labels.tolist() == [1, 0] * 3
    both = sources.opened(f"npz:{tmp_path / 'a.npz'}", held_out=f"npz:{tmp_path / 'a.npz'}")
    assert len(both.held_out) == 6


def test_a_table_of_paths_is_read(folder):
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rows = pd.DataFrame({"path": ["train/2 cats/0.png", "train/10 dogs/1.png"], "label": ["cat", "dog"], "id": [7, 8]})
    rows.to_parquet(folder / "t.parquet")
    found = sources.opened(f"parquet:{folder / 't.parquet'}", size=8)
    assert found.ids == ("7", "8") and found.class_names == ("cat", "dog")
    by_folder = sources.opened(f"folder:{folder}", size=8)
    assert torch.equal(found.examples.images, by_folder.examples.images[[0, 4]])


def test_a_data_set_of_hugging_face_is_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra desk is not installed")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]), "id": datasets.Value("string")}
    )
    rows = {"image": pictures, "label": [0, 1, 1, 0], "id": ["w", "x", "y", "z"]}
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "test": made.select([0, 1])}).save_to_disk(str(tmp_path / "d"))
    found = sources.opened(f"datasets:{tmp_path / 'd'}")
    assert found.ids == ("w", "x", "y", "z") and found.class_names == ("a", "b") and len(found.held_out) == 2
    assert torch.equal(found.examples.images[2].permute(1, 2, 0), torch.from_numpy(np.array(pictures[2])))
    assert sources.opened(f"datasets:{tmp_path / 'd'}", size=16).examples.shape == (3, 16, 16)


def test_a_data_set_of_the_library_has_numbers_for_ids():
    found = sources.opened("digits")
    assert found.ids[:2] == ("0", "1") and len(found.held_out) > 100 and found.dataset().n_classes == 10


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("folder:nowhere", {}, "no such folder"),
        ("npz:nowhere.npz", {}, "No such file"),
        ("parquet:nowhere", {}, "no such file"),
        ("digit", {}, "did you mean 'digits'"),
        ("digits", {"size": 32}, "has a size of its own"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, spec, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said) as told:
        sources.opened(spec, **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "lacks 'labels"),
        ({"images": np.zeros((2, 8), np.uint8), "labels": np.zeros(2, int)}, r"images are \[N, H, W\]"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, r"images are \[N, H, W\]"),
        (
            {"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2, int), "ids": np.array(["a", "a"])},
            "given twice",
        ),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2, int), "ids": np.array(["a"])}, "1 ids"),
        ({"images": np.array([{}], dtype=object), "labels": np.zeros(1, int)}, "allow_pickle|pickle"),
    ],
)
def test_a_wrong_archive_is_one_line(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said) as told:
        sources.opened(f"npz:{tmp_path / 'a.npz'}")
    assert "\n" not in str(told.value)


# --- networks

SOURCE = sources.Source(
    "tests", tuple(map(str, range(30))), small.examples(30, side=32, channels=3), None, ("a", "b", "c")
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def test_a_plain_network_answers_as_in_its_own_pipeline(tmp_path):
    model = torchvision.models.squeezenet1_1(num_classes=3).eval()
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    opened = networks.opened("torchvision:squeezenet1_1", tmp_path / "w.safetensors", SOURCE, MEAN, STD)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        wanted = model((SOURCE.examples.pixels() - mean) / std)
    assert torch.equal(predict(opened.model, SOURCE.examples), wanted)
    assert small.same(networks.tensors(opened.model), dict(model.state_dict()))
    first, again, other = (opened.build(seed) for seed in (1, 1, 2))
    assert small.same(small.state(first), small.state(again)) and not small.same(small.state(first), small.state(other))


def test_a_network_of_the_library_comes_back_with_its_normalisation(tmp_path):
    model = models.build("cnn", SOURCE.dataset(), seed=3)
    weights.save(model, tmp_path / "w.safetensors")
    opened = networks.opened("cnn", tmp_path / "w.safetensors", SOURCE)
    assert torch.equal(predict(opened.model, SOURCE.examples), predict(model, SOURCE.examples))


def test_a_network_by_import_path_and_its_tied_weights(tmp_path):
    model = small.stranger()
    grey = sources.Source("tests", tuple(map(str, range(30))), small.examples(30), None, ("a", "b", "c"))
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    opened = networks.opened("small:stranger", tmp_path / "w.safetensors", grey)
    assert torch.equal(predict(opened.model, grey.examples), predict(model, grey.examples))
    (tmp_path / "again.safetensors").write_bytes(safetensors.torch.save(networks.tensors(opened.model)))
    again = networks.opened("small:stranger", tmp_path / "again.safetensors", grey)
    assert small.same(small.state(again.model), small.state(opened.model))


def test_a_network_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra desk is not installed")
    model = timm.create_model("test_resnet", num_classes=3).eval()
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    opened = networks.opened("timm:test_resnet", tmp_path / "w.safetensors", SOURCE, MEAN, STD)
    assert predict(opened.model, SOURCE.examples).shape == (30, 3)
    with pytest.raises(ValueError, match="timm has no model"):
        networks.opened("timm:resnet_9000", tmp_path / "w.safetensors", SOURCE)


def test_a_network_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra desk is not installed")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=32, patch_size=16, num_channels=3, num_labels=3, **sizes)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}'
    )
    opened = networks.opened(f"hf:{tmp_path / 'm'}", None, SOURCE)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        wanted = model((SOURCE.examples.pixels() - mean) / std).logits
    assert torch.allclose(predict(opened.model, SOURCE.examples), wanted, atol=1e-6)
    made = tmp_path / "new.safetensors"
    made.write_bytes(safetensors.torch.save(networks.tensors(opened.model)))
    again = networks.opened(f"hf:{tmp_path / 'm'}", made, SOURCE)
    assert torch.equal(predict(again.model, SOURCE.examples), predict(opened.model, SOURCE.examples))
    held = networks.tensors(opened.model)
    del held["classifier.weight"]
    made.write_bytes(safetensors.torch.save(held))
    with pytest.raises(ValueError, match="classifier.weight does not fit"):  # and is not drawn at random
        networks.opened(f"hf:{tmp_path / 'm'}", made, SOURCE)


@pytest.mark.parametrize(
    ("spec", "file", "options", "said"),
    [
        ("cnnn", "w.safetensors", {}, "did you mean 'cnn'"),
        ("cnn", None, {}, "cnn needs weights"),
        ("cnn", "none.safetensors", {}, "no such file of weights"),
        ("cnn", "w.pt", {}, "is no safetensors file"),
        ("mlp", "w.safetensors", {}, "does not hold weights of this architecture"),
        ("cnn", "damaged.safetensors", {}, "does not hold weights"),
        ("cnn", "w.safetensors", {"mean": MEAN, "std": STD}, "normalises by itself"),
        ("torchvision:squeezenet1_1", "w.safetensors", {"mean": (0.5,), "std": (0.5,)}, "need 3 numbers each"),
        ("torchvision:squeezenet1_1", "w.safetensors", {"mean": MEAN, "std": (0.2, 0.2, 0.0)}, "std above 0"),
        ("torchvision:nothing", "w.safetensors", {}, "nothing"),
        ("nowhere.at_all:Net", "w.safetensors", {}, "nowhere"),
        ("small:nothing", "w.safetensors", {}, "nothing"),
        ("small:BY_CLASS", "w.safetensors", {}, "cannot be called"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(tmp_path, monkeypatch, spec, file, options, said):
    monkeypatch.chdir(tmp_path)
    weights.save(models.build("cnn", SOURCE.dataset()), tmp_path / "w.safetensors")
    (tmp_path / "w.pt").write_bytes(b"anything")
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=said) as told:
        networks.opened(spec, file, SOURCE, **options)
    assert "\n" not in str(told.value)

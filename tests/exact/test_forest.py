"""The forest after deletions must be the forest of what remains, bit for bit, caches included."""

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from unlearnlib.exact import _tree
from unlearnlib.exact.forest import DareForest, decode, encode


def statistics(forest: DareForest) -> list:
    """Everything the forest has stored about its candidates, in preorder."""
    f, out = forest._trees, []
    for t in range(forest.n_trees):
        pending = [0]
        while pending:
            split = f.nodes[t, pending.pop()]
            slot = split["slot"]
            for q in range(forest._settings.max_features if slot >= 0 else 0):
                found = f.found[t, slot, q]
                if found:
                    lists = f.values[t, slot, q], f.equal[t, slot, q, :found], f.gaps[t, slot, q, : found + 1]
                    out.append((t, int(split["depth"]), int(f.considered[t, slot, q]), *(x.tolist() for x in lists)))
            if split["child"] >= 0:
                pending += [split["child"] + 1, split["child"]]
    return out


def data(kind: str, n: int, features: int, classes: int, rng) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(n, features))
    if kind != "continuous":
        x = np.round(x, 1) if kind == "rounded" else rng.integers(0, 4, size=(n, features))
    y = np.clip((x[:, 0] + x[:, -1] + 0.5 * rng.normal(size=n) + classes) // 2, 0, classes - 1)
    return x, y.astype(int)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["continuous", "rounded", "few values"]),
    st.integers(20, 400),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(0, 8),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([1.0, 1.0, 0.4]),
)
def test_deletions_give_the_forest_of_what_remains(draw, kind, n, features, classes, k, depth, upper, leaf, share):
    rng = np.random.default_rng(draw)
    x, y = data(kind, n, features, classes, rng)
    options = dict(
        n_trees=2 if share == 1 else 5,
        occurrence=share,
        max_depth=depth,
        n_thresholds=k,
        random_depth=int(upper * depth),
        max_features=int(rng.integers(1, features + 1)),
        min_leaf=leaf,
        seed=draw % 1000,
        n_classes=classes,
    )
    forest, left = DareForest(**options).fit_arrays(x, y), np.arange(n)
    for size in (1, 1, 2, n // 10 + 1, 1, n // 3):
        gone = rng.choice(left, min(size, len(left) - 1), replace=False)
        forest.forget(gone)
        left = np.setdiff1d(left, gone)
    fresh = DareForest(**options).fit_arrays(x[left], y[left])
    assert forest.fingerprint() == fresh.fingerprint()
    assert statistics(forest) == statistics(fresh)
    np.testing.assert_array_equal(forest.predict_proba(x), fresh.predict_proba(x))


def test_the_property_above_has_something_to_find():
    """Some deletions must rebuild and some must not, caches must be in use, and a skipped repair must be visible."""
    rng = np.random.default_rng(0)
    x, y = data("continuous", 600, 5, 3, rng)
    forest = DareForest(n_trees=3, n_thresholds=4).fit_arrays(x, y)
    stored = len(statistics(forest))
    rebuilt = [forest.forget([i]).touched["trees_retrained"] > 0 for i in range(40)]
    assert stored > 20 and 0 < sum(rebuilt) < 40

    planted = DareForest(n_trees=3, n_thresholds=4).fit_arrays(x, y)
    planted._data.alive[:40] = False  # dead for later scans, but counted still
    assert planted.fingerprint() != forest.fingerprint()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4), st.integers(1, 3))
def test_the_flow_of_a_deletion_is_what_the_receipt_counts(draw, random_depth, size):
    rng = np.random.default_rng(draw)
    x, y = data("continuous", 200, 4, 3, rng)
    forest = DareForest(n_trees=4, max_depth=6, random_depth=random_depth, seed=draw % 100).fit_arrays(x, y)
    gone, before = rng.choice(200, size, replace=False), forest.fingerprint()
    flow = forest.flow(gone)
    assert forest.fingerprint() == before
    touched = forest.forget(gone).touched
    states = flow["state"].value_counts()
    assert states.get("rebuilt", 0) == touched["nodes_retrained"]
    above = flow.set_index(["tree", "path"])["state"]
    roots = [t for t, p in above[above == "rebuilt"].index if p == "" or above[t, p[:-1]] != "rebuilt"]
    assert states.get("updated", 0) + len(roots) == touched["nodes_updated"]
    assert len(set(roots)) == touched["trees_retrained"]
    assert flow["n"].tolist() == forest.nodes()["n"].tolist()
    paths = flow[flow.tree == 0].set_index("path")["n"]
    assert all(paths[p] == paths[p + "L"] + paths[p + "R"] for p in paths.index if p + "L" in paths)


def test_occurrence_is_the_share_of_trees_and_is_uniform():
    rng = np.random.default_rng(0)
    x, y = data("continuous", 2000, 4, 2, rng)
    forest = DareForest(n_trees=10, occurrence=0.25, max_depth=6).fit_arrays(x, y)
    member = forest._data.member
    assert (member.sum(0) == 3).all()  # a quarter of ten, rounded up
    assert chisquare(member.sum(1)).pvalue > 1e-3
    pairs = member.astype(int) @ member.T
    assert chisquare(pairs[np.triu_indices(10, 1)]).pvalue > 1e-3
    roots = forest.nodes().query("depth == 0")["n"]
    assert roots.tolist() == member.sum(1).tolist()
    other = DareForest(n_trees=10, occurrence=0.25, seed=1).fit_arrays(x, y)._data.member
    assert (member != other).any()
    order = rng.permutation(2000)
    shuffled = DareForest(n_trees=10, occurrence=0.25, max_depth=6).fit_arrays(x[order], y[order])
    np.testing.assert_array_equal(shuffled._data.member, member[:, order])
    assert forest.forget([7]).touched["nodes_updated"] <= 3 * 7
    few = DareForest(n_trees=20, occurrence=0.05).fit_arrays(x[:2], [0, 1])  # most trees are empty
    assert few.predict_proba(x[:2]).sum(1) == pytest.approx([1, 1])
    few.forget([0])
    assert few.predict_proba(x[:2]).tolist() == [[0, 1], [0, 1]]


def test_a_forgotten_class_leaves_no_trace():
    x, y = data("rounded", 300, 4, 4, np.random.default_rng(1))
    forest = DareForest(n_trees=5, seed=3).fit_arrays(x, y)
    forest.forget(np.flatnonzero(y == 2))
    fresh = DareForest(n_trees=5, seed=3, n_classes=4).fit_arrays(x[y != 2], y[y != 2])
    assert forest.fingerprint() == fresh.fingerprint()
    assert (forest.predict_proba(x)[:, 2] == 0).all()
    assert (forest._data.codes[:, y == 2] == 0).all()


def test_with_all_candidates_the_root_is_the_best_gini_split():
    x, y = data("rounded", 200, 4, 3, np.random.default_rng(2))
    table = DareForest(n_trees=1, max_depth=1, n_thresholds=255, max_features=4).fit_arrays(x, y).nodes()
    ours = table.loc[1:, [0, 1, 2]].to_numpy()
    gini = sum(side.sum() / 200 * (1 - ((side / side.sum()) ** 2).sum()) for side in ours)
    best = DecisionTreeClassifier(max_depth=1, random_state=0).fit(x, y).tree_
    assert gini == pytest.approx(best.impurity[1:] @ best.weighted_n_node_samples[1:] / 200, abs=1e-12)


def test_random_nodes_draw_attribute_and_value_uniformly():
    values = np.arange(6.0)
    x = np.stack([np.random.default_rng(i).permutation(values) for i in range(5)], 1)
    x = np.column_stack([x, np.ones(6)])  # a constant column is never drawn
    forest = DareForest(n_trees=4000, max_depth=1, random_depth=1).fit_arrays(x, [0, 1, 0, 1, 0, 1])
    roots = forest.nodes().query("depth == 0")
    drawn = roots.groupby(["attribute", "threshold"]).size()
    assert drawn.shape == (25,)  # 5 attributes, 5 values each: the largest cannot split
    assert chisquare(drawn).pvalue > 1e-3


def test_priorities_are_a_uniform_sample_without_replacement():
    codes = encode(np.linspace(-1, 1, 6)[None])[0]
    keys = np.random.default_rng(0).integers(2**64, size=6000, dtype=np.uint64)
    pairs = {}
    for key in keys:
        ranks = [int(_tree.priority(code, key)) for code in codes]
        assert len(set(ranks)) == 6
        pair = tuple(sorted(np.argsort(ranks)[:2]))
        pairs[pair] = pairs.get(pair, 0) + 1
    assert len(pairs) == 15 and chisquare(list(pairs.values())).pvalue > 1e-3


def test_extremely_randomised_trees_do_not_look_at_labels():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 6))
    first, second = rng.integers(0, 2, size=(2, 400))
    tables = [
        DareForest(n_trees=10, max_depth=2, random_depth=2, min_leaf=20, seed=1).fit_arrays(x, y).nodes()
        for y in (first, second)
    ]
    np.testing.assert_array_equal(*(t[["depth", "attribute", "threshold", "n"]].to_numpy() for t in tables))
    assert tables[0]["n"].min() >= 20


def test_codes_keep_order_and_value():
    x = np.array([-np.pi, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3e38], dtype=np.float32)
    codes = encode(x)
    assert (np.diff(codes.astype(np.int64)) >= 0).all() and codes[2] == codes[3]
    np.testing.assert_array_equal(decode(codes), x)


def test_accuracy_is_that_of_a_random_forest():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:1200], order[1200:]
    ours = DareForest(n_trees=50).fit_arrays(x[train], y[train]).predict_proba(x[test]).argmax(1)
    forest = RandomForestClassifier(50, max_depth=10, bootstrap=False, random_state=0).fit(x[train], y[train])
    assert (ours == y[test]).mean() > forest.score(x[test], y[test]) - 0.02


def test_images_in_bytes_and_in_floats_are_the_same():
    examples = small.examples(90)
    forest = DareForest(n_trees=20).fit(examples)
    assert torch.equal(forest.logits(examples.images), forest.logits(examples.pixels()))
    assert (forest.logits(examples.images).argmax(1) == examples.labels).float().mean() > 0.95
    assert torch.allclose(forest.logits(examples.images).exp().sum(1), torch.ones(90), atol=1e-6)
    receipt = forest.forget(torch.tensor([3, 4]))
    assert receipt.certificate.kind == "exact" and receipt.touched["nodes_updated"] >= 20


def test_the_cache_on_disk_notices_every_file_of_kernels():
    """numba's cache looks at the file of a function alone; a stale kernel would be another forest without a word."""
    files = sorted(Path(_tree.__file__).parent.glob("_tree*.py"))
    assert len(files) == 5
    for path in files:
        assert ("cache=True" in path.read_text()) == (path.name == "_tree.py")
    for entry in (_tree.update, _tree.predict, _tree.ranks):
        cells = [cell.cell_contents for cell in entry.py_func.__closure__]
        assert cells == [_tree.SOURCES]  # free variables are part of the key


def test_errors_say_what_to_do():
    x, y = np.zeros((5, 2)), np.array([0, 1, 0, 1, 1])
    forest = DareForest(n_trees=2).fit_arrays(x, y)
    forest.forget([1])
    for request, message in (([1], "already"), ([7], "0 to 4"), ([2, 2], "twice"), ([], "no position")):
        with pytest.raises(ValueError, match=message):
            forest.forget(request)
    with pytest.raises(ValueError, match="leave none"):
        forest.forget([0, 2, 3, 4])
    with pytest.raises(ValueError, match="finite"):
        DareForest().fit_arrays(x + np.nan, y)
    for options in (
        {"max_features": 0},
        {"random_depth": 11},
        {"n_thresholds": 256},
        {"max_features": "log"},
        {"occurrence": 0},
    ):
        with pytest.raises(ValueError, match="must|occurrence"):
            DareForest(**options).fit_arrays(x, y)

"""What methods declare against what they count, with their published rows and every solver, on uneven sets."""

import pytest
from small import BY_CLASS, CONVOLVES, dataset, examples, ingredients, split

import unlearnlib as ul
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import models
from unlearnlib.training.work import UNITS, multiplications

WHOLE = ("boundary_shrink", "boundary_expand", "unsir", *BY_CLASS)
SHORTER = {"cf_k": {"epochs": 2}, "eu_k": {"epochs": 2}, "sfron": {"iterations": 7}, "unsir": {"noise_steps": 2}}
SHORTER |= {"gkt": {"rounds": 2, "batch_size": 16, "threshold": 1.0, "width": 8}}


def pair(name, parts, **options):
    model = models.build("cnn", dataset()) if name in CONVOLVES else models.build("mlp", dataset(), hidden=(4,))
    weights, passed = sum(p.numel() for p in model.parameters()), multiplications(model, parts.train)
    sizes = {"validation": len(parts.validation), "classes": 3, "weights": weights, "multiplications": passed}
    declared = registry.work(name, len(parts.forget_index), len(parts.retain_index), **sizes, **options)
    return declared, ul.unlearn(name, model, parts, seed=0, **options).cost


def by_class():
    train = examples(131)
    return Split(train, train.labels == 1, examples(24, seed=3), None, "class:1", 0, None)


PUBLISHED = [n for n in HOMES if n != "retrain" and registry.find(n).published]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows(name):
    parts = by_class() if name in WHOLE else split(n=131, forget=39)
    given = {**registry.find(name).published, **SHORTER.get(name, {}), **ingredients(name, parts)}
    declared, cost = pair(name, parts, **given)
    if registry.find(name).cost.startswith("at most "):
        assert 0 < cost.work <= declared
    else:
        assert cost.work == pytest.approx(declared)


@pytest.mark.parametrize(
    "name, options",
    [
        ("influence", {"solver": "dense"}),
        ("influence", {"solver": "dense", "kind": "hessian", "damping": 10.0}),
        ("influence", {"solver": "lissa", "iterations": 3}),
        ("influence", {"solver": "kfac"}),
        ("influence", {"solver": "ekfac"}),
        ("influence", {"curvature_of": "retain"}),
        ("newton", {"solver": "dense", "kind": "hessian", "damping": 10.0, "steps": 2}),
        ("newton", {"solver": "ekfac"}),
        ("rescaled_influence", {"samples": None}),
        ("rescaled_influence", {"solver": "kfac", "samples": 1}),
        ("rescaled_influence", {"solver": "dense"}),
        ("rescaled_influence", {"solver": "dense", "kind": "hessian", "damping": 10.0}),
    ],
)
def test_solvers(name, options):
    declared, cost = pair(name, split(n=70, forget=21), **options)
    assert declared / 40 < cost.work <= declared


def test_many_examples_make_the_graph_anew_for_each_product():
    declared, cost = pair("influence", split(n=1100, forget=20), iterations=3, tolerance=0.0)
    assert cost.products == {"linearise": 3 * 1100, "ggn": 3 * 1100} and cost.work == pytest.approx(declared)


def test_a_dense_hessian_costs_a_product_for_each_weight():
    _, cost = pair("influence", split(n=70, forget=21), solver="dense", kind="hessian", damping=10.0)
    weights = 64 * 4 + 4 + 4 * 3 + 3
    assert cost.products["hvp"] == 70 * (weights + 1) and cost.work > 70 * weights * UNITS["hvp"]


@pytest.mark.parametrize("name, options", [("delete", {}), ("scrub", {}), ("bad_teacher", {"retain_fraction": 0.5})])
def test_teachers_of_augmented_pictures_are_counted(name, options):
    declared, cost = pair(name, split(n=70, forget=21), epochs=2, augment="flip", **options)
    assert cost.work == pytest.approx(declared) and cost.forward_evaluations > 0

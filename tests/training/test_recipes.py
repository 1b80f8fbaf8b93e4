"""Recipes: every known data set has a network and a recipe that learns it, unknown ones get a plain default."""

import pytest

from unlearnlib import data, training
from unlearnlib.studies.settings import Setting
from unlearnlib.training import models, recipes
from unlearnlib.training.recipe import Recipe


def test_every_known_data_set_has_a_network_that_can_be_built_and_a_recipe():
    for name in data.names():
        model = recipes.model_for(name)
        assert model in models.names()
        recipe = recipes.recipe_for(name, model)
        assert isinstance(recipe, Recipe) and recipe.epochs > 0
    assert set(recipes._MODELS) <= set(data.names())
    for kind, model in recipes._RECIPES:
        assert kind in data.names() and model in models.names()


def test_what_nobody_tried_gets_a_default():
    assert recipes.model_for("folder:/pictures") == "cnn"
    assert recipes.recipe_for("folder:/pictures", "vit_b_16") == recipes.recipe_for("something else", "mlp")
    assert recipes.recipe_for("cifar10", "resnet18") == recipes.recipe_for("cifar100", "resnet_gn")


@pytest.mark.parametrize(("dataset", "reached"), [("digits", 0.93)])
def test_the_recipe_of_a_data_set_learns_it(dataset, reached):
    setting = Setting(dataset, recipes.model_for(dataset))
    split = setting.split()
    model = training.fit(setting.network(), split.train, setting.recipe)
    assert training.accuracy(model, split.validation) > reached

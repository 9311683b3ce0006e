"""Which weights decay, and how a recipe's optimiser is timm's."""

import pytest
import torch
from torch import nn

from student.model import build_model
from student.optim import build_optimizer
from student.recipe import load_recipe
from tests.support.small_runs import small_recipe


@pytest.mark.parametrize("decay", [True, False])
def test_weight_decay_spares_what_deit_spares(decay: bool) -> None:
    recipe = load_recipe("digits_distilled", [f"decay_dist_token={str(decay).lower()}", "optimizer=sgd"])
    model = build_model(recipe, 10, (16, 16))
    optimizer = build_optimizer(model, recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared = {
        names[id(parameter)]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0
    }
    shapes = dict(model.named_parameters())
    expected = {name for name in shapes if shapes[name].ndim == 1} | {"cls_token", "pos_embed"}
    assert spared == (expected if decay else expected | {"dist_token"})
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(isinstance(parameter, nn.Parameter) for group in optimizer.param_groups for parameter in group["params"])


def test_weight_decay_spares_biases_and_norms_of_a_convnet() -> None:
    recipe = small_recipe("weight_decay=0.3")
    model = build_model(recipe, 10, (8, 8))
    groups = build_optimizer(model, recipe).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert set(found.values()) == {0.0, 0.3}
    assert {name for name, decay in found.items() if decay} == {
        name for name, parameter in model.named_parameters() if parameter.ndim > 1
    }


def test_nesterovs_momentum_is_sgds_where_there_is_one() -> None:
    for momentum in (0.9, 0.0):
        recipe = small_recipe("optimizer=sgd", f"momentum={momentum}")
        group = build_optimizer(build_model(recipe, 10, (8, 8)), recipe).param_groups[0]
        assert (group["momentum"], group["nesterov"]) == (momentum, momentum > 0)

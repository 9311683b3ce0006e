"""The learning rate against timm's CosineLRScheduler, stepped by epoch and by step."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from student.recipe import Recipe, load_recipe
from student.schedule import learning_rate, scaled_lr


def timm_lrs(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=scaled_lr(recipe))
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps_per_epoch,
        lr_min=recipe.min_lr,
        warmup_t=recipe.warmup_epochs * steps_per_epoch,
        warmup_lr_init=recipe.warmup_lr,
    )
    lrs = []
    for step in range(recipe.epochs * steps_per_epoch):
        scheduler.step(step)
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


@pytest.mark.parametrize("overrides", [[], ["warmup_epochs=0"], ["epochs=6", "batch_size=64"], ["lr_batch=none"]])
def test_by_epoch_it_is_timms(overrides: list[str]) -> None:
    recipe = load_recipe("deit_tiny", ["schedule_lag=false", *overrides])
    lrs = [learning_rate(recipe, epoch, 7, 10) for epoch in range(recipe.epochs)]
    assert lrs == pytest.approx(timm_lrs(recipe, 1), rel=1e-12)


def test_by_step_it_is_timms() -> None:
    recipe = load_recipe("deit_tiny", ["schedule_lag=false", "schedule_step=step", "epochs=20"])
    lrs = [learning_rate(recipe, epoch, step, 9) for epoch in range(20) for step in range(9)]
    assert lrs == pytest.approx(timm_lrs(recipe, 9), rel=1e-12)


def test_deits_values() -> None:
    recipe = load_recipe("deit_small_distilled")
    assert scaled_lr(recipe) == pytest.approx(1e-3)
    assert learning_rate(recipe, 0, 0, 1251) == 1e-6
    assert learning_rate(recipe, 1, 600, 1251) == 1e-6  # the released code steps its schedule after each epoch
    assert learning_rate(recipe, 5, 1250, 1251) == pytest.approx(1e-6 + 4 * (1e-3 - 1e-6) / 5)
    assert learning_rate(recipe, 151, 0, 1251) == pytest.approx((1e-3 + 1e-5) / 2)


def test_lag_is_the_released_codes_loop() -> None:
    recipe = load_recipe("deit_tiny", ["epochs=30"])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=scaled_lr(recipe))
    scheduler = CosineLRScheduler(optimizer, t_initial=30, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    seen = []
    for epoch in range(30):
        seen.append(optimizer.param_groups[0]["lr"])  # the epoch trains at this rate
        scheduler.step(epoch)
    assert [learning_rate(recipe, epoch, 3, 10) for epoch in range(30)] == pytest.approx(seen, rel=1e-12)


def test_lag_by_step_comes_an_epoch_later() -> None:
    lagging = load_recipe("deit_tiny", ["schedule_step=step"])
    prompt = load_recipe("deit_tiny", ["schedule_step=step", "schedule_lag=false"])
    assert learning_rate(lagging, 0, 5, 10) == 1e-6
    assert learning_rate(lagging, 7, 5, 10) == pytest.approx(learning_rate(prompt, 6, 5, 10))


def test_fine_tuning_is_constant_after_its_ramp() -> None:
    recipe = load_recipe("deit_base_384")
    rates = [learning_rate(recipe, epoch, 0, 10) for epoch in range(30)]
    assert rates[:2] == [1e-6, 1e-6]
    assert rates[6:] == pytest.approx([5e-6] * 24)
    assert rates == sorted(rates)


def test_lr_is_not_scaled_without_lr_batch() -> None:
    assert scaled_lr(load_recipe("deit_tiny", ["lr_batch=none", "batch_size=4096"])) == 5e-4

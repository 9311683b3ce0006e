"""Students of every kind: both heads in both modes, under DDP and torch.compile, and refusals."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from student.losses import TeacherAnswers, mixed_target, student_loss
from student.model import Heads, build_model, fused, heads, student_spec
from student.recipe import load_recipe
from teacher_cache.errors import ModelError, RecipeError

SIZE = (16, 16)
IMAGES = torch.linspace(-1, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16).sin()

TWO_HEADS = """
import torch
from torch import nn

class Both(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.one, self.two = nn.Linear(768, num_classes), nn.Linear(768, num_classes)

    def forward(self, images):
        return self.one(images.flatten(1)), self.two(images.flatten(1))

def both(num_classes, image_size):
    assert image_size == (16, 16)
    return Both(num_classes)

class InTraining(Both):  # as facebookresearch/deit's DistilledVisionTransformer
    def forward(self, images):
        one, two = super().forward(images)
        return (one, two) if self.training else (one + two) / 2

class Odd(Both):
    def __init__(self, num_classes, change):
        super().__init__(num_classes)
        self.change = change

    def forward(self, images):
        return self.change(*super().forward(images))

class OneClassMore(Both):
    def forward(self, images):
        one, two = super().forward(images)
        return (one, nn.functional.pad(two, (0, 1))) if self.training else (one, two)

class Normed(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(768), nn.Dropout(0.5), nn.Linear(768, num_classes))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        if self.training:
            self.seen = self.seen + 1
        return super().forward(images)

def in_training(num_classes):
    return InTraining(num_classes)

def one_class_more(num_classes):
    return OneClassMore(num_classes)

def normed(num_classes):
    return Normed(num_classes)

def a_dict(num_classes):
    return Odd(num_classes, lambda one, two: {"logits": one})

def a_list(num_classes):
    return Odd(num_classes, lambda one, two: [one, two])

def a_triple(num_classes):
    return Odd(num_classes, lambda one, two: (one, two, two))

def a_pair_of_others(num_classes):
    return Odd(num_classes, lambda one, two: (one, None))

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "models.py"
    path.write_text(TWO_HEADS)
    return str(path)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def build(*overrides: str, recipe: str = "digits_distilled", num_classes: int = 5) -> nn.Module:
    return build_model(load_recipe(recipe, overrides), num_classes, SIZE)


def assert_same(ours: Heads, theirs: Heads) -> None:
    torch.testing.assert_close(ours.class_logits, theirs.class_logits)
    torch.testing.assert_close(ours.distill_logits, theirs.distill_logits)


def test_both_heads_in_both_modes() -> None:
    model = build()
    assert model.training
    trained = heads(model, IMAGES)
    model.eval()
    evaluated = heads(model, IMAGES)
    assert evaluated.distill_logits is not None
    assert evaluated.class_logits.shape == evaluated.distill_logits.shape == (4, 5)
    assert_same(evaluated, trained)
    torch.testing.assert_close((evaluated.class_logits + evaluated.distill_logits) / 2, model(IMAGES))  # timm's answer
    assert not torch.allclose(evaluated.class_logits, evaluated.distill_logits)


def test_state_dict_is_timms_own() -> None:
    names = build().state_dict().keys()
    assert {"cls_token", "dist_token", "head.weight", "head_dist.weight"} <= names
    assert all(not name.startswith(("model.", "module.")) for name in names)


def test_fused_is_the_sum_of_softmaxes() -> None:
    outputs = heads(build(), IMAGES)
    assert outputs.distill_logits is not None
    expected = outputs.class_logits.softmax(1) + outputs.distill_logits.softmax(1)
    torch.testing.assert_close(fused(outputs), expected)
    alone = Heads(outputs.class_logits.bfloat16(), None)
    assert fused(alone).dtype == torch.float32
    torch.testing.assert_close(fused(alone), alone.class_logits.float().softmax(1))


def test_fused_may_be_the_mean_of_both_logits() -> None:
    outputs = heads(build(), IMAGES)
    assert outputs.distill_logits is not None
    expected = (outputs.class_logits + outputs.distill_logits) / 2
    torch.testing.assert_close(fused(outputs, "logit_mean"), expected)
    alone = Heads(outputs.class_logits.bfloat16(), None)
    assert torch.equal(fused(alone, "logit_mean"), alone.class_logits.float())


def test_ddp_and_compile_give_both_heads_and_all_gradients(process_group: None) -> None:
    model = build()
    recipe = load_recipe("digits_distilled")
    expected = heads(model, IMAGES)
    target = mixed_target(torch.tensor([[0, 1]] * 4), torch.full((4,), 0.5), 5, 0.1)
    wrapped = DistributedDataParallel(torch.compile(model, backend="eager"))
    outputs = heads(wrapped, IMAGES)
    assert_same(outputs, expected)
    student_loss(recipe, outputs, target, TeacherAnswers(torch.tensor([0, 1, 2, 3]))).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    wrapped.eval()
    assert_same(heads(wrapped, IMAGES), expected)


def test_a_second_head_learns_the_truth_without_distillation() -> None:
    model = build("distill=none")
    target = mixed_target(torch.tensor([[0, 1]] * 4), torch.full((4,), 0.5), 5, 0.1)
    loss = student_loss(load_recipe("digits_distilled", ["distill=none"]), heads(model, IMAGES), target, None)
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_same_seed_same_weights() -> None:
    first = build().state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(value, first[name]) for name, value in build().state_dict().items())


def test_deit_is_the_published_model() -> None:
    parameters = {"deit_tiny": 5_717_416, "deit_tiny_distilled": 5_910_800}
    for recipe, count in parameters.items():
        model = build_model(load_recipe(recipe), 1000, (224, 224))
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
        assert max(rates) == pytest.approx(0.1)


def test_tokens_are_drawn_with_deits_deviation() -> None:
    recipe = load_recipe("deit_base_distilled", ["model_args.depth=1"])
    model = build_model(recipe, 10, (224, 224))
    for token in (model.cls_token, model.dist_token):
        assert isinstance(token, nn.Parameter)
        assert token.std().item() == pytest.approx(0.02, rel=0.1)  # of 768 numbers: three standard errors are 8 %
    wide = build_model(load_recipe("deit_base_distilled", ["model_args.depth=1", "token_init_std=0.5"]), 10, (224, 224))
    for token in (wide.cls_token, wide.dist_token):
        assert isinstance(token, nn.Parameter)
        assert token.std().item() == pytest.approx(0.5, rel=0.1)
    plain = build_model(load_recipe("deit_base", ["model_args.depth=1", "token_init_std=none"]), 10, (224, 224))
    assert isinstance(plain.cls_token, nn.Parameter)
    assert plain.cls_token.std().item() < 1e-5  # timm's own


def test_hard_distillation_without_a_token_has_one_head() -> None:
    assert heads(build("model=deit_tiny_patch16_224"), IMAGES).distill_logits is None


@pytest.mark.parametrize("recipe", ["digits_teacher", "digits_undistilled", "digits_distilled"])
def test_digits_models_take_their_views(recipe: str) -> None:
    outputs = heads(build(recipe=recipe, num_classes=10), IMAGES)
    assert outputs.class_logits.shape == (4, 10)
    assert (outputs.distill_logits is not None) == (recipe == "digits_distilled")


@pytest.mark.parametrize("recipe", ["cifar_teacher", "cifar_tiny", "cifar_tiny_distilled"])
def test_cifar_models_take_their_views(recipe: str) -> None:
    model = build_model(load_recipe(recipe), 100, (32, 32))
    assert heads(model, torch.zeros(2, 3, 32, 32)).class_logits.shape == (2, 100)


def test_views_need_not_be_square() -> None:
    model = build_model(load_recipe("digits_distilled"), 10, (16, 32))
    assert heads(model, torch.zeros(2, 3, 16, 32)).class_logits.shape == (2, 10)


def test_a_timm_convnet_takes_any_size() -> None:
    model = build("model=resnet10t", "model_args={}", "drop_path=0.1", recipe="digits_undistilled")
    assert heads(model, IMAGES).distill_logits is None


def test_a_function_in_a_file_may_have_two_heads(model_file: str) -> None:
    model = build(f"model={model_file}:both", "model_args={}")
    assert heads(model.eval(), IMAGES).distill_logits is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=none"], "names no model: it takes that of a checkpoint"),
        (["token_init_std=0.02", "model=resnet10t", "model_args={}"], "has no class token to draw"),
        (["model=deit_tiny_distilled_patch8"], "timm has no model deit_tiny_distilled_patch8: did you mean 'deit"),
        (["model_args.widht=3"], "does not take one of drop_path, model_args .*widht"),
        (["model=vgg11", "model_args={}", "drop_path=0.1"], "does not take one of drop_path.*set drop_path=none"),
        (["model_args.num_classes=7"], "model_args num_classes would make timm read other files or build another kind"),
        (["model=vgg11", "model_args={}"], "does not take views of 16 x 16"),
        (["model=student.convnet:small_convnet"], "takes no patch_size, embed_dim, depth, num_heads"),
        (
            ["model=student.convnet:small_convnet", "model_args={}", "drop_path=0.1"],
            "takes no drop_path_rate: --set drop_path=none, or",
        ),
        (
            ["model=student.convnet:large_convnet"],
            "has no function large_convnet: did you mean 'cifar_convnet' or 'small_convnet'",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    nameless = overrides == ["model=none"]
    with pytest.raises(RecipeError if nameless else ModelError, match=message) as refused:
        build(*overrides)
    assert str(refused.value).startswith("recipe digits_distilled names" if nameless else "model: ")


def test_a_function_that_builds_no_model_is_refused(model_file: str) -> None:
    with pytest.raises(ModelError, match=r"^model: .* returned a NoneType"):
        build(f"model={model_file}:nothing", "model_args={}")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("a_dict", "the model gives a dict: return one tensor of logits (views, classes), or a tuple of two where"),
        ("a_list", "the model gives a list of 2 items: return one tensor"),
        ("a_triple", "the model gives a tuple of 3 items: return one tensor"),
        ("a_pair_of_others", "the model gives a tuple of 2 items: return one tensor"),
        ("in_training", "2 heads in training and 1 in evaluation: return the same in both modes, each head's own"),
        ("one_class_more", "an output of shape (2, 6) for two views, (2, 5) is expected: the store has 5 classes"),
    ],
)
def test_a_function_whose_model_answers_otherwise_is_refused(model_file: str, function: str, said: str) -> None:
    with pytest.raises(ModelError, match=f"^model: {re.escape(model_file)}:{function}.*{re.escape(said)}") as refused:
        build(f"model={model_file}:{function}", "model_args={}")
    assert "\n" not in str(refused.value)


def test_looking_at_what_a_model_answers_leaves_it_as_it_was_drawn(model_file: str) -> None:
    """Its buffers, also one that it assigns, and torch's random numbers."""
    model = build(f"model={model_file}:normed", "model_args={}")
    drawn = torch.rand(3)
    assert model.training
    assert (int(model.seen), int(model[1].num_batches_tracked)) == (0, 0)
    assert torch.equal(model[1].running_mean, torch.zeros(768))
    torch.manual_seed(0)
    fresh = nn.Linear(768, 5)
    assert torch.equal(fresh.weight, model[3].weight)
    assert torch.equal(torch.rand(3), drawn)


def test_a_recipes_model_args_come_before_the_stores_size() -> None:
    spec = student_spec("deit_tiny_patch16_224", {"img_size": 32, "depth": 1}, 0.1, (16, 16), "model")
    assert spec.arguments == {"img_size": 32, "depth": 1, "drop_path_rate": 0.1}
    assert student_spec("resnet10t", {}, None, (16, 16), "model").arguments == {}

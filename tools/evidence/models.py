"""Teachers that no shipped recipe has, as `--model` and `--teacher` take them: tools/evidence/models.py:NAME."""

from typing import Any

from torch import Tensor, nn

from teacher_cache.teacher.models import ModelSpec, build_module
from teacher_cache.teacher.names import GivenModel


def resnet18_32px(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """timm's ResNet-18 for pictures of 32 x 32: it begins with a convolution of 3 x 3 at stride 1, and no pooling, as
    He et al. (2015, section 4.2) begin on CIFAR-10."""
    model = build_module(ModelSpec(GivenModel("resnet18")), num_classes, image_size)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def transformer_32px(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A DeiT without distillation token, patches of 4 x 4, width 384: 16 million parameters."""
    return _deit(num_classes, image_size, patch_size=4, depth=9, embed_dim=384, num_heads=6, drop_path_rate=0.1)


def small_transformer_32px(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """The same with patches of 8 x 8, width 128: the small scale's student, without its token."""
    return _deit(num_classes, image_size, patch_size=8, depth=4, embed_dim=128, num_heads=4)


def _deit(num_classes: int, image_size: tuple[int, int], **arguments: float) -> nn.Module:
    spec = ModelSpec(GivenModel("deit_tiny_patch16_224"), {"img_size": image_size, **arguments})
    return build_module(spec, num_classes, image_size)


def levit_32px(num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """timm's LeViT-128S for pictures of 32 x 32: a stem that makes 4 x 4 patches of 8 x 8, not 2 x 2 of 16 x 16."""
    spec = ModelSpec(GivenModel("levit_128s"), {"img_size": image_size, "stem_type": "s8"})
    return BothHeads(build_module(spec, num_classes, image_size))


class BothHeads(nn.Module):
    """A distilled LeViT that answers by both heads in evaluation too, where timm's gives their mean."""

    def __init__(self, levit: nn.Module) -> None:
        super().__init__()
        self.levit: Any = levit  # timm's LevitDistilled

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> logits (B, num_classes) of the class head and of the distillation head."""
        pooled = self.levit.forward_features(images).mean(dim=1)
        return self.levit.head(pooled), self.levit.head_dist(pooled)

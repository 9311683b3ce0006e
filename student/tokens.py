"""How alike class and distillation token are, block by block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from student.model import token_blocks


@contextmanager
def token_cosines(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the model's forward appends cos(class token, distillation token), (B,) float32, after each block.

    arXiv 2012.12877, section 4: from 0.06 after the first layers to 0.93 after the last.
    """
    cosines: list[Tensor] = []

    def measure(block: nn.Module, arguments: tuple[Tensor, ...], tokens: Tensor) -> None:
        cosines.append(functional.cosine_similarity(tokens[:, 0].float(), tokens[:, 1].float(), dim=1))

    hooks = [block.register_forward_hook(measure) for block in token_blocks(model)]
    try:
        yield cosines
    finally:
        for hook in hooks:
            hook.remove()

"""The exponential moving average of a student: what timm's ModelEmaV3 gives, at less of the host's time a step."""

import timm.utils
import torch
from torch import Tensor, nn

Place = tuple[dict[str, Tensor | None], str]  # where a module holds a parameter or a buffer, and its name there


class Ema:
    """An average of all that a model's state holds: its parameters, and its buffers, of which integers are copied.

    timm gathers both state dicts, and copies integers one by one, at every step: 1 ms for a DeiT-Ti, 20 launches for a
    ResNet-18. Here places are found once; a buffer may be another tensor at every step, as a module may assign it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._timms = timm.utils.ModelEmaV3(model, decay=decay)
        self._decay = decay
        self._places = list(zip(_places(self.module), _places(model), strict=True))
        dtypes = {tensor.dtype for tensor in model.state_dict().values()}
        self._rounds = torch.bfloat16 in dtypes  # which timm does at random

    @property
    def module(self) -> nn.Module:
        return self._timms.module

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model as it is now."""
        if self._rounds:
            self._timms.update(self._model)
            return
        floats: tuple[list[Tensor], list[Tensor]] = [], []
        others: tuple[list[Tensor], list[Tensor]] = [], []
        for (averaged, name), (current, _) in self._places:
            average, now = averaged[name], current[name]
            assert average is not None
            assert now is not None
            kind = floats if average.is_floating_point() else others
            kind[0].append(average)
            kind[1].append(now)
        torch._foreach_lerp_(*floats, 1.0 - self._decay)
        if others[0]:
            torch._foreach_copy_(*others)


def _places(model: nn.Module) -> list[Place]:
    """In the order of the state dict, which holds what two modules share once for each."""
    found: list[Place] = []
    for _, module in model.named_modules(remove_duplicate=False):
        for held, left_out in ((module._parameters, set()), (module._buffers, module._non_persistent_buffers_set)):
            found += [(held, name) for name, tensor in held.items() if tensor is not None and name not in left_out]
    return found

"""A model whose gradients the ranks of a job average: torch's DistributedDataParallel, and what it has to know."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from teacher_cache.errors import ModelError
from teacher_cache.job import Job, meeting


def averaging(
    forward: nn.Module, model: nn.Module, job: Job, rehearse: Callable[[nn.Module, int], None], num_views: int
) -> tuple[nn.Module, list[str]]:
    """forward, which is the model or its compiled form, such that a backward averages the gradients of all ranks; and
    the names of the model's parameters that the loss does not use. Every rank must call it.

    rehearse(module, n) gives the model's parameters the gradients of n views by a module, and changes nothing else;
    num_views is how many go through it at once in training.
    """
    unused = _find_unused(model, rehearse)
    find = job.any([bool(unused)])[0]
    with meeting("the start"):
        averaged = DistributedDataParallel(
            forward,
            gradient_as_bucket_view=True,  # no copy of each gradient
            find_unused_parameters=find,  # a walk through the graph at every step
        )
        if not find:
            # After its first backward DDP puts gradients together in another way, and three ranks add up in another
            # order; a run that goes on would have that order one step later than one that was never left.
            rehearse(averaged, num_views)
            model.zero_grad(set_to_none=True)
    return averaged, unused


def without_averaging(forward: nn.Module) -> AbstractContextManager[Any]:
    """Gradients are added up on this rank alone, for a later backward to average."""
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


@contextmanager
def all_used() -> Iterator[None]:
    """ModelError where DDP still waits for gradients of the step before, which the rehearsal did not foresee."""
    try:
        yield
    except RuntimeError as error:
        if "Expected to have finished reduction" not in str(error):
            raise
        raise ModelError(
            "a step did not use all parameters that the first one used, which several ranks wait for: train on one "
            "rank, or let the model use all of them in every step (TORCH_DISTRIBUTED_DEBUG=DETAIL names them)"
        ) from None


def _find_unused(model: nn.Module, rehearse: Callable[[nn.Module, int], None]) -> list[str]:
    """The names of parameters that the loss does not use, for which DDP would wait."""
    rehearse(model, 2)  # one view has no batch statistics
    parameters = list(model.named_parameters())
    unused = [name for name, parameter in parameters if parameter.requires_grad and parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused

"""A store as arrays and pictures, for a notebook: what `teacher_cache.open_store` gives."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teacher_cache.audit.names import find_sample
from teacher_cache.audit.sample import describe_sample, describe_view, render_views
from teacher_cache.audit.votes import Votes, read_statistics
from teacher_cache.errors import StoreError
from teacher_cache.rendering.choice import Render
from teacher_cache.replay.policy import Policy
from teacher_cache.shards.index import Index
from teacher_cache.storage.place import Place, as_place
from teacher_cache.store.labels import no_view, read_views
from teacher_cache.store.store import Store
from teacher_cache.teacher.identity import TeacherIdentity

if TYPE_CHECKING:  # which is imported where a device may render
    import torch


@dataclass(frozen=True)
class OpenStore:
    """A store with its labels as arrays, one row a sample in the index's order, and its views as pictures.

    A sample is named by its number, as "SHARD/KEY", or by its key where only one shard has it. `store` is what the
    functions of `teacher_cache.audit` and the loader take; it is open for reading.
    """

    store: Store

    @property
    def path(self) -> Place:
        return self.store.path

    @property
    def seed(self) -> int:
        return self.store.seed

    @property
    def views(self) -> int:
        """How many views a sample has."""
        return self.store.views

    @property
    def policy(self) -> Policy:
        return self.store.policy

    @property
    def teacher(self) -> TeacherIdentity | None:
        """Who labelled; None while nobody did."""
        return self.store.teacher

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.store.class_names

    @property
    def index(self) -> Index:
        """The samples: their keys, and classes (N,) int32, the ground truth."""
        return self.store.index

    def labels(self, views: Iterable[int] | int | None = None) -> np.ndarray:
        """Labels of these views, all of them by default: (samples, views), or (samples,) of a single view; -1 where not
        labelled yet, -2 where the sample was skipped. 780 MB for ImageNet's training set at 304 views.
        """
        return read_views(self.store, views)

    def votes(self) -> Votes:
        """What each sample is called most and second most, in how many views: see audit.votes.Votes."""
        return read_statistics(self.store).votes

    def number(self, sample: int | str) -> int:
        """The number of a sample by its name. ShardError where there is none, or several."""
        if isinstance(sample, str):
            return find_sample(self.store, sample)
        number = operator.index(sample)  # NumPy's too
        if not 0 <= number < self.index.num_samples:
            raise StoreError(f"{self.path} has samples 0 to {self.index.num_samples - 1}, there is no sample {number}")
        return number

    def sample(self, sample: int | str) -> dict[str, Any]:
        """All that is known of a sample, its views' parameters included: see audit.sample.describe_sample."""
        return describe_sample(self.store, self.number(sample))

    def view(self, sample: int | str, view: int) -> dict[str, Any]:
        """What was drawn for a view, whom it is mixed with, what it was called: see audit.sample.describe_view."""
        return describe_view(self.store, self.number(sample), view)

    def image(self, sample: int | str) -> np.ndarray:
        """The sample's own image, (H, W, 3) uint8."""
        return render_views(self.store, self.number(sample), ())[0]

    def render(
        self,
        sample: int | str,
        view: int,
        *,
        mixed: bool = True,
        render: Render = "cpu",
        device: "str | torch.device | None" = None,
    ) -> np.ndarray:
        """A view's pixels, (H, W, 3) uint8: exactly those that the teacher saw, or the sample's own before mixing.

        render: "gpu" replays its block on a device (`device`, or the first), "auto" where there is one; the bytes are
        the same, so that a policy with operations of one's own, or one without room there, is replayed on the CPU.
        StoreError where they are not the stored ones any more: other image files or other libraries. DeviceError where
        there is no such device.
        """
        number = self.number(sample)
        if not 0 <= view < self.views:
            raise no_view(self.store, view)
        (pictures,) = render_views(self.store, number, (view,), render=render, device=device)[1]
        if pictures.digest_equal is False:
            shard = self.store.shard_name(self.index.shard_of(number))
            raise StoreError(
                f"{self.path}, shard {shard}, key {self.index.key(number)}, view {view}: these are not the pixels "
                f"that were labelled; `teacher-cache verify {as_place(self.path)}` says more"
            )
        return pictures.mixed if mixed else pictures.unmixed

"""A store as arrays and pictures, for a notebook: what `teacher_cache.open_store` gives."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from teacher_cache.audit.names import find_sample
from teacher_cache.audit.sample import describe_sample, describe_view, render_views
from teacher_cache.audit.votes import Votes, read_statistics, unit_rows
from teacher_cache.errors import StoreError
from teacher_cache.store.store import Store
from teacher_cache.store.unit import NOT_LABELLED


class OpenStore(Store):
    """A store with its labels as arrays, one row a sample in the index's order, and its views as pictures.

    A sample is named by its number, as "SHARD/KEY", or by its key where only one shard has it.
    """

    @classmethod
    def of(cls, store: Store) -> "OpenStore":
        """The same store, with all this."""
        other = cls.__new__(cls)
        other.__dict__.update(store.__dict__)
        return other

    def labels(self, views: Iterable[int] | int | None = None) -> np.ndarray:
        """Labels of these views, all of them by default: (samples, views), or (samples,) of a single view; -1 where not
        labelled yet, -2 where the sample was skipped. 780 MB for ImageNet's training set at 304 views.
        """
        wanted = np.arange(self.views)[views if isinstance(views, int) else slice(None) if views is None else [*views]]
        committed = self.committed()
        unread = np.setdiff1d(np.arange(self.layout.num_groups), self.layout.locate_views(wanted)[0])
        committed[:, :, unread] = False
        dtype = np.int16 if self.num_classes <= 32767 else np.int32
        labels = np.full((self.index.num_samples, *wanted.shape), NOT_LABELLED, dtype)
        for row in unit_rows(self, committed):
            labels[row.start : row.start + len(row.labels)] = row.labels[:, wanted]
        return labels

    def votes(self) -> Votes:
        """What each sample is called most and second most, in how many views: see audit.votes.Votes."""
        return read_statistics(self).votes

    def number(self, sample: int | str) -> int:
        """The number of a sample by its name. ShardError where there is none, or several."""
        if isinstance(sample, str):
            return find_sample(self, sample)
        if not 0 <= sample < self.index.num_samples:
            raise StoreError(f"{self.path} has samples 0 to {self.index.num_samples - 1}, there is no sample {sample}")
        return int(sample)

    def sample(self, sample: int | str) -> dict[str, Any]:
        """All that is known of a sample, its views' parameters included: see audit.sample.describe_sample."""
        return describe_sample(self, self.number(sample))

    def view(self, sample: int | str, view: int) -> dict[str, Any]:
        """What was drawn for a view, whom it is mixed with, what it was called: see audit.sample.describe_view."""
        return describe_view(self, self.number(sample), view)

    def image(self, sample: int | str) -> np.ndarray:
        """The sample's own image, (H, W, 3) uint8."""
        return render_views(self, self.number(sample), ())[0]

    def render(self, sample: int | str, view: int, *, mixed: bool = True) -> np.ndarray:
        """A view's pixels, (H, W, 3) uint8: exactly those that the teacher saw, or the sample's own before mixing.

        StoreError where they are not the stored ones any more: other image files or other libraries.
        """
        number = self.number(sample)
        if not 0 <= view < self.views:
            raise StoreError(f"{self.path} has views 0 to {self.views - 1}, there is no view {view}")
        (pictures,) = render_views(self, number, (view,))[1]
        if pictures.digest_equal is False:
            shard = self.shard_name(self.index.shard_of(number))
            raise StoreError(
                f"{self.path}, shard {shard}, key {self.index.key(number)}, view {view}: these are not the pixels "
                f"that were labelled; `teacher-cache verify {self.path}` says more"
            )
        return pictures.mixed if mixed else pictures.unmixed

"""The store that a notebook opens and whose samples are looked at."""

import pytest

from teacher_cache.store.store import Store
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store


@pytest.fixture(scope="module")
def soft_labels(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A filled store with the three largest probabilities of each view; not to be changed."""
    store = bright_store(tmp_path_factory.mktemp("filled"))
    fill_store(store, topk=3)
    return store

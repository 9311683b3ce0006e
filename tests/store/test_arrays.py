import asyncio
import time
from pathlib import Path

import pytest
from zarr.core.sync import sync

from teacher_cache.store.arrays import settled


def test_no_write_goes_on_after_one_that_failed(tmp_path: Path) -> None:
    """zarr writes several files at a time, and says of the first that fails while the others are under way."""

    def late() -> None:
        time.sleep(0.3)
        (tmp_path / "late").touch()

    async def full() -> None:
        raise OSError(28, "No space left on device")

    async def write() -> None:
        await asyncio.gather(full(), asyncio.to_thread(late))

    with pytest.raises(OSError, match="No space left"), settled():
        sync(write())
    assert (tmp_path / "late").exists()

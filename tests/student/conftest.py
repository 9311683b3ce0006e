import pytest


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training sets torch's threads from the cores; here, and in processes started here, it is one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

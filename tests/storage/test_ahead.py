"""Calls that are under way: at once, in threads that are kept, and in a process that was forked."""

import subprocess
import sys
import time
import weakref
from threading import Barrier, get_ident

import pytest

from teacher_cache.storage.ahead import Ahead

FORKED = """
import os
from teacher_cache.storage.ahead import Ahead

assert Ahead(lambda: 1).result() == 1
child = os.fork()
if not child:
    os._exit(Ahead(lambda: 7).result())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_calls_are_under_way_at_once_and_answer_each_its_own() -> None:
    meet = Barrier(5, timeout=20)  # all four and this thread
    coming = [Ahead(lambda number=number: (meet.wait(), number)[1]) for number in range(4)]
    meet.wait()
    assert [each.result() for each in coming] == [0, 1, 2, 3]


def test_what_a_call_raises_is_raised_where_its_answer_is_wanted() -> None:
    failing = Ahead(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing.result()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nobody_waits_for_a_call_that_raised_no_exception(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind(3)

    failing = Ahead(fail)
    assert failing.wait(20)
    with pytest.raises(kind):
        failing.result()
    assert Ahead(lambda: 5).result() == 5  # the thread goes on


def test_a_thread_serves_one_call_after_the_other_and_holds_no_answer() -> None:
    class Answer:
        pass

    assert len({Ahead(get_ident).result() for _ in range(50)}) == 1
    answer, deadline = weakref.ref(Ahead(Answer).result()), time.monotonic() + 20
    while answer() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert answer() is None


def test_a_forked_process_has_threads_of_its_own() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.stderr) == ("7", "")

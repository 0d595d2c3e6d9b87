import gc
import os
import sys
import threading
import time

import pytest

from lqlm.errors import UserError
from lqlm.rewards.timeout import Timeout, within
from lqlm.rewards.worker import Worker

ECHO = """
import json, os, sys, time
print("null", flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if question == "die": os._exit(1)
    if question == "hang": time.sleep(600)
    if question == "pid": question = os.getpid()
    if question == "slow": time.sleep(0.5)
    print(json.dumps(question), flush=True)
"""


def worker(script=ECHO, wall_s=20.0, **options):
    return Worker([sys.executable, "-I", "-S", "-c", script], wall_s=wall_s, **options)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_questions_share_a_process():
    w = worker()
    assert w.starts == 0  # nothing before it is needed
    for value in (1, "two", {"three": [3.5, "\ud800\0é"]}, "x" * 50_000):
        assert w.ask(value) == value
    assert w.starts == 1
    w.close()
    w.close()
    assert w.ask(1) == 1 and w.starts == 2
    w.close()


def test_a_death_costs_one_answer():
    w = worker()
    assert [w.ask(q) for q in (1, "die", 2, "die", "die", 3)] == [1, None, 2, None, None, 3]
    assert w.starts == 4
    w.close()


def test_an_overrun_costs_one_answer():
    w = worker(wall_s=1.5)
    pid = w.ask("pid")
    start = time.monotonic()
    assert w.ask("hang") is None
    assert time.monotonic() - start < 30.0 and not alive(pid)
    assert w.ask(4) == 4
    w.close()


def test_a_death_between_two_questions_costs_the_next():
    w = worker()
    os.kill(w.ask("pid"), 9)
    time.sleep(0.1)
    assert w.ask(1) is None and w.ask(2) == 2
    w.close()


def test_a_late_answer_does_not_meet_the_next_question():
    """The caller's time limit falls into the wait."""
    w = worker()
    assert w.ask("first") == "first"
    with pytest.raises(Timeout):
        within(0.1, lambda: w.ask("slow"))
    assert w.ask("next") == "next" and w.starts == 2
    w.close()


def test_a_slow_start_is_not_started_again():
    w = worker("import time; time.sleep(0.6)" + ECHO)
    for _ in range(3):
        with pytest.raises(Timeout):
            within(0.1, lambda: w.ask(1))
    assert w.ask(2) == 2 and w.starts == 1
    w.close()


def test_it_is_replaced_after_its_lifetime():
    w = worker(lifetime=2)
    pids = [w.ask("pid") for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] and not alive(pids[0])
    w.close()


def test_threads_take_turns():
    w, wrong = worker(), []

    def ask(n):
        wrong.extend(i for i in range(20) if w.ask([n, i]) != [n, i])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and w.starts == 1
    w.close()


def test_it_ends_with_its_owner():
    w = worker()
    pid = w.ask("pid")
    del w
    gc.collect()
    assert not alive(pid)


@pytest.mark.parametrize(
    ("script", "words"),
    [("print('\"no such package; install it\"')", "no such package"), ("", "ended or hung"), ("1/0", "ended or hung")],
)
def test_a_worker_that_cannot_start(script, words):
    with pytest.raises(UserError, match=words):
        worker(script).ask(1)

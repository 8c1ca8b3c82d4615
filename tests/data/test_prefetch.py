import threading
import time

import pytest

from jaxgpt.data.prefetch import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
def test_items_come_in_order(depth):
    assert list(prefetch(lambda step: step**2, range(10), depth)) == [step**2 for step in range(10)]


def test_the_next_items_are_made_meanwhile_and_no_more():
    made = []
    items = prefetch(lambda step: made.append(step) or step, iter(range(1000)), depth=3)
    assert next(items) == 0
    deadline = time.time() + 5
    while len(made) < 4 and time.time() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2, 3]
    items.close()


def test_items_are_made_in_another_thread():
    assert set(prefetch(lambda step: threading.current_thread().name, range(3))) == {"prefetch_0"}


def test_an_exception_is_raised_at_its_step():
    items = prefetch(lambda step: 6 // (3 - step), range(9))
    assert [next(items) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(items)
    assert not threads()


def test_closing_stops_at_once():
    made = []

    def make(step):
        time.sleep(0.02)
        made.append(step)

    items = prefetch(make, iter(int, 1), depth=50)  # endless
    next(items)
    items.close()
    assert not threads()
    assert len(made) < 25


def test_leaving_the_loop_stops_it():
    for item in prefetch(lambda step: step, iter(range(10**9))):
        if item == 5:
            break
    assert not threads()

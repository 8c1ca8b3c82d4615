import signal

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import multihost_utils

from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.state import TrainState
from jaxgpt.training.stop import sigterm


@pytest.fixture
def questions(monkeypatch):
    """The numbers under which JAX is asked whether to stop; it says yes to the third."""
    found = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda i: found.append(i) or i == 3)
    return found


def test_one_process_notes_the_signal_itself(questions):
    before = signal.getsignal(signal.SIGTERM)
    with sigterm() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        assert asked()
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is before
    assert questions == []


def test_several_processes_leave_the_signal_to_jax_and_count_their_questions(questions, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    with sigterm() as asked:
        assert signal.getsignal(signal.SIGTERM) is before
        assert [asked() for _ in range(4)] == [False, False, True, False]
    assert questions == [1, 2, 3, 4]


def test_saving_asks_none_of_its_own(questions, tmp_path):
    """JAX picks the number of a question that no process has asked; a step among them could be one never asked."""
    state = TrainState(jnp.array(500), {"x": jnp.ones(3)}, {"x": jnp.ones(3)}, jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, "text", {})
        checkpoints.wait()
    assert (tmp_path / "500").is_dir()
    assert questions == []

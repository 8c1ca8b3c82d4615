"""train.py as two processes: the numbers of one, one account of them, and an end for both whatever ends either."""

import copy
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from damage import cut
from test_train import Runner, losses, newest_step, sample_of, wait_for

SHORT = {"train.steps": 20, "train.eval_every": 10}
# Long enough to be stopped anywhere; a save takes longer than the steps between two, so that a signal may meet one.
ENDLESS = {"train.steps": 10**5, "train.eval_every": 10**4, "train.save_every": 14, "train.log_every": 7}
BOTH = pytest.mark.parametrize("process", [0, 1])


class Pair:
    """Starts what a Runner starts as two processes that know of each other."""

    def __init__(self, runner):
        self.runner, self.folder = runner, runner.folder

    def environments(self):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            names = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
        return [self.runner.env | names | {"JAX_PROCESS_ID": str(i)} for i in range(2)]

    def start(self, out, *options, **fields):
        processes = []
        for env in self.environments():
            one = copy.copy(self.runner)
            one.env = env
            processes.append(one.start(out, *options, **fields))
        return processes

    def finish(self, out, *options, **fields):
        """What the two print: all of it is process 0's."""
        ended = wait(self.start(out, *options, **fields))
        assert [code for code, _, _ in ended] == [0, 0], ended
        assert ended[1][1] == ""
        return ended[0][1]


def wait(processes, seconds=200):
    """(exit code, standard output, standard error) of each."""
    try:
        told = [process.communicate(timeout=seconds) for process in processes]
        return [(process.returncode, *streams) for process, streams in zip(processes, told, strict=True)]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair(Runner(tmp_path_factory.mktemp("pair")))


@pytest.fixture(scope="module")
def alone(pair):
    """(run directory, what it printed) of one process."""
    return pair.folder / "alone", pair.runner.finish("alone", **SHORT)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "axis", ["data", *(pytest.param(axis, marks=pytest.mark.slow) for axis in ("tensor", "sequence", "fsdp"))]
)
def test_two_processes_compute_and_tell_what_one_does(pair, alone, axis):
    stdout = pair.finish(axis, **SHORT, **{f"mesh.{axis}": 2})  # from an empty directory
    assert " parameters on 2 cpu\n" in stdout
    found, wanted = losses(pair.folder / axis), losses(alone[0])
    assert [row[0] for row in found] == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(np.array(found, float), np.array(wanted, float), rtol=1e-5)
    assert sample_of(stdout) == sample_of(alone[1])
    assert len(list((pair.folder / axis).rglob("metrics.jsonl"))) == 1
    assert newest_step(pair.folder / axis) == 20


@pytest.mark.thorough
def test_sigterm_to_either_process_saves_once_and_the_same_command_goes_on(pair):
    run, last = pair.folder / "terminated", 0
    for told in (1, 0):
        processes = pair.start(run.name, **ENDLESS, **{"mesh.data": 2})
        wait_for(lambda last=last: newest_step(run) > last, processes[0])
        processes[told].send_signal(signal.SIGTERM)
        ended = wait(processes)
        assert [code for code, _, _ in ended] == [0, 0], ended
        stdout = ended[0][1]
        assert (f"resuming from step {last}\n" in stdout) == (last > 0)
        (step,) = map(int, re.findall(r"SIGTERM: saved step (\d+); the same command goes on from there", stdout))
        assert newest_step(run) == step > last
        last = step
    rows = [row[0] for row in losses(run)]
    assert rows == list(range(0, last + 1, 7))


def test_a_mistake_ends_both_processes_with_its_message(pair):
    for _, stdout, stderr in wait(pair.start("refused", **{"data.path": "/nowhere.txt", "mesh.data": 2}), 60):
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1] == "error: data.path: found /nowhere.txt, no such file or folder"
        assert "parameters on" not in stdout


@pytest.mark.thorough
def test_a_damaged_checkpoint_ends_both_processes_and_one_process_steps_over_it(pair, alone):
    run = pair.folder / "damaged"
    shutil.copytree(alone[0], run)
    cut(run / "checkpoints" / "20")
    ended = wait(pair.start(run.name, **SHORT, **{"mesh.tensor": 2}), 60)
    assert all(code == 1 for code, _, _ in ended)
    assert "error: checkpoint 20 is damaged (" in ended[0][2]
    assert newest_step(run) == 20
    assert "stepping over it" in pair.runner.finish(run.name, **SHORT)
    assert losses(run) == losses(alone[0])


def test_an_environment_that_says_too_little_is_refused(pair):
    one = copy.copy(pair.runner)
    one.env = one.env | {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "0"}
    assert one.refuse("too_little") == (
        "error: environment: found JAX_COORDINATOR_ADDRESS=localhost:1, JAX_NUM_PROCESSES=None, JAX_PROCESS_ID=0, "
        "expected process 0's HOST:PORT, a number of processes and one of 0 up to it"
    )
    assert not (pair.folder / "too_little").exists()


FAILING = """
import sys
from jaxgpt.training.setup import first_alone, join_processes
import jax
join_processes()
with first_alone():
    print("began", file=sys.stderr)
    if jax.process_index() == int(sys.argv[1]):
        raise OSError("disk full")
print("went on", file=sys.stderr)
"""


@BOTH
def test_a_failure_of_one_process_ends_both_with_its_message(pair, process):
    """Process 0's before the others begin."""
    command = [sys.executable, "-c", FAILING, str(process)]
    streams = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ended = wait([subprocess.Popen(command, env=env, **streams) for env in pair.environments()], 60)
    for i, (code, _, stderr) in enumerate(ended):
        assert code == 1
        assert f"{'OSError' if i == process else 'ValueError'}: disk full" in stderr
        assert "went on" not in stderr
    assert "began" in ended[0][2]
    assert ("began" in ended[1][2]) == (process == 1)


@pytest.mark.slow
def test_without_resuming_the_old_run_is_moved_aside_once(pair, alone):
    subprocess.run(["cp", "-r", str(alone[0]), str(pair.folder / "moved")], check=True)
    pair.finish("moved", "--no-resume", **SHORT | {"mesh.data": 2, "train.steps": 10})
    assert losses(pair.folder / "moved.1") == losses(alone[0])
    assert losses(pair.folder / "moved")[-1][0] == 10
    assert not (pair.folder / "moved.2").exists()

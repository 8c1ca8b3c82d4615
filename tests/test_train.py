"""train.py as its user runs it: from text to a run directory, through signals, kills, damage and mistakes."""

import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from damage import cut, flip_a_byte
from tiers import few

ROOT = Path(__file__).resolve().parents[1]
WORDS = "the cat sat on a mat and then it ran off to see what dogs do at night"
TINY = {
    "data.tokenizer": "char",
    "model.vocab_size": 8,  # grows to the tokenizer's
    "model.context_length": 16,
    "model.d_model": 16,
    "model.n_layers": 1,
    "model.n_heads": 2,
    "model.dropout": 0.1,
    "optimizer.learning_rate": 0.01,
    "optimizer.warmup_steps": 5,
    "train.steps": 60,
    "train.batch_size": 4,
    "train.eval_every": 20,
    "train.eval_batches": 2,
    "train.final_eval_batches": 4,
    "train.save_every": 10,
    "train.log_every": 5,
    "train.sample_tokens": 20,
    "train.sample_prompt": "",
    "train.sample_every": None,
    "train.steps_per_dispatch": 7,
}
LONG = {"train.steps": 3000, "train.eval_every": 500, "train.save_every": 100, "train.log_every": 50}


class Runner:
    """Runs train.py on one device; what it compiles is compiled once for all tests."""

    def __init__(self, folder: Path):
        self.folder, self.text = folder, folder / "text.txt"
        draw = random.Random(1)
        self.text.write_text(" ".join(draw.choice(WORDS.split()) for _ in range(4000)))
        self.env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        self.env |= {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla"), "COLUMNS": "200", "NO_COLOR": "1"}
        self.env = self.on(1).env

    def start(self, out, *options, **fields):
        fields = {"data.path": self.text, **TINY, **fields, "out": self.folder / out}
        words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, str(ROOT / "train.py"), *words, *options]
        return subprocess.Popen(command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, out, *options, **fields):
        """(exit code, standard output, standard error)"""
        process = self.start(out, *options, **fields)
        try:
            stdout, stderr = process.communicate(timeout=300)
        finally:
            process.kill()
        return process.returncode, stdout, stderr

    def on(self, devices):
        """The same runner on so many simulated devices."""
        other = copy.copy(self)
        other.env = self.env | {"XLA_FLAGS": re.sub(r"count=\d+", f"count={devices}", self.env["XLA_FLAGS"])}
        return other

    def finish(self, out, *options, **fields):
        code, stdout, stderr = self.run(out, *options, **fields)
        assert code == 0, stderr
        return stdout

    def refuse(self, out, *options, **fields):
        """Standard error of a run that ends before work starts, as one line."""
        code, stdout, stderr = self.run(out, *options, **fields)
        assert code in (1, 2)
        assert "Traceback" not in stderr
        assert "parameters on" not in stdout
        return re.sub(r"[\s│╭╮╰╯─]+", " ", stderr).strip()


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def finished(runner):
    """(run directory, what it printed) of an uninterrupted run."""
    stdout = runner.finish("finished")
    return runner.folder / "finished", stdout


@pytest.fixture(scope="module")
def long_run(runner):
    """One long enough to be interrupted somewhere."""
    stdout = runner.finish("long", **LONG)
    return runner.folder / "long", stdout


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("train_loss"), row.get("val_loss")) for row in rows]


def sample_of(stdout):
    (text,) = re.findall(r"(?s)--- a sample after .*?\n---", stdout)
    return text


def newest_step(run):
    steps = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_run_leaves_its_files_and_its_loss_falls(finished):
    run, stdout = finished
    names = {path.name for path in run.iterdir()}
    assert names >= {"metrics.jsonl", "loss.png", "train_config.json", "checkpoints", "data", "jaxgpt_tokenizer.json"}
    assert (run / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(0, 61, 5))
    validation = {"val_loss", "val_perplexity", "val_bits_per_byte"}
    training = {"train_loss", "train_perplexity", "grad_norm", "learning_rate", "tokens_per_second"}
    for row in rows:
        evaluated = row["step"] % 20 == 0
        assert set(row) == {"step", "seconds"} | (training if row["step"] else set()) | (
            validation if evaluated else set()
        )
    assert 0 < rows[0]["seconds"] <= rows[6]["seconds"] < rows[-1]["seconds"]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.3
    assert rows[-1]["train_loss"] < rows[1]["train_loss"] - 0.3
    assert json.loads((run / "train_config.json").read_text())["model"]["vocab_size"] == 16
    assert newest_step(run) == 60
    assert "3,376 parameters on 1 cpu" in stdout
    assert len(sample_of(stdout).splitlines()[1]) == 20
    assert stdout.endswith(f"run: {run}\n")


def test_a_finished_run_has_nothing_left_to_do(runner, finished):
    run, _ = finished
    before = losses(run)
    assert "finished before: all 60 steps are made\n" in runner.finish("finished")
    assert losses(run) == before


@pytest.mark.thorough
def test_another_text_is_refused_though_it_has_as_many_tokens_and_loses_nothing(runner, finished):
    run = runner.folder / "same_size"
    text = runner.folder / "same_size.txt"
    text.write_text(runner.text.read_text())
    runner.finish("same_size", **{"data.path": text})
    before = losses(run)
    for old, new in (("a", "#"), ("the", "the!")):  # the second changes the vocabulary's size too
        text.write_text(runner.text.read_text().replace(old, new))
        message = runner.refuse("same_size", **{"data.path": text})
        assert re.search(r"model\.vocab_size|data\.path: found other tokens than checkpoint 60 of", message), message
        assert losses(run) == before
        assert newest_step(run) == 60
    text.write_text(runner.text.read_text())
    os.utime(text, (1, 1))  # the same text at another time is the same text
    assert "finished before" in runner.finish("same_size", **{"data.path": text})
    assert losses(run) == losses(finished[0])


@pytest.mark.thorough
def test_a_run_goes_on_on_another_mesh_to_the_same_numbers(runner, finished):
    for name, mesh in (("fsdp_tensor", {"mesh.fsdp": 2, "mesh.tensor": 2}), ("sequence", {"mesh.sequence": 4})):
        run = runner.folder / name
        subprocess.run(["cp", "-r", str(finished[0]), str(run)], check=True)
        subprocess.run(["rm", "-r", str(run / "checkpoints" / "60")], check=True)
        assert "resuming from step 50\n" in runner.on(4).finish(name, **mesh)
        found, wanted = (np.array(losses(path), float) for path in (run, finished[0]))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.thorough
def test_every_way_to_train_runs_to_its_end(runner):
    fields = {"train.steps": 20, "train.eval_every": 10, "train.sample_every": 5, "train.accumulation": 2}
    fields |= {"data.sampling": "epochs", "model.dtype": "bfloat16", "model.vocab_size": 64, "data.stride": 3}
    stdout = runner.finish("every_way", "--train.tensorboard", **fields)
    assert [int(n) for n in re.findall(r"a sample after (\d+) steps", stdout)] == [5, 10, 15, 20]
    assert list((runner.folder / "every_way" / "tensorboard").iterdir())
    assert json.loads((runner.folder / "every_way" / "train_config.json").read_text())["model"]["vocab_size"] == 64


@pytest.mark.thorough
def test_sigterm_saves_and_the_same_command_goes_on_to_the_same_numbers(runner, long_run):
    run = runner.folder / "terminated"
    process = runner.start("terminated", **LONG)
    wait_for(lambda: newest_step(run) >= 300, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (step,) = map(int, re.findall(r"SIGTERM: saved step (\d+); the same command goes on from there", stdout))
    assert 300 <= step < 3000
    assert newest_step(run) == step
    stdout = runner.finish("terminated", **LONG)
    assert f"resuming from step {step}\n" in stdout
    assert losses(run) == losses(long_run[0])
    assert sample_of(stdout) == sample_of(long_run[1])


def kill_at_random(runner, out, kills, seed, seconds, **fields):
    """Kill the run so many times, each at a random moment of up to `seconds` after its first save, and finish it.

    (kills, how many of them met a save under way, what the last life printed)
    """
    draw, done, saving = random.Random(seed), 0, 0
    run = runner.folder / out
    while done < kills:
        process = runner.start(out, **fields)
        before = newest_step(run)
        wait_for(lambda before=before: newest_step(run) > before, process)
        time.sleep(draw.uniform(0, seconds))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        done += 1
        saving += any((run / "checkpoints").glob("*-tmp"))
    return done, saving, runner.finish(out, **fields)


@pytest.mark.thorough
def test_a_killed_run_goes_on_to_the_same_numbers(runner, long_run):
    done, _, stdout = kill_at_random(runner, "killed", 1, time.time_ns(), 0.3, **LONG)
    assert done == 1
    assert int(re.findall(r"resuming from step (\d+)", stdout)[0]) >= 100
    assert losses(runner.folder / "killed") == losses(long_run[0])
    assert sample_of(stdout) == sample_of(long_run[1])


@pytest.mark.slow
def test_twenty_kills_leave_the_numbers_as_they_were(runner):
    fields = LONG | {"train.steps": 4000, "train.eval_every": 1000}
    whole = runner.finish("never_killed", **fields)
    # A save takes longer than the 7 steps between two, so that many kills meet one under way.
    seed, often = time.time_ns(), fields | {"train.save_every": 7}
    done, saving, stdout = kill_at_random(runner, "killed_20_times", 20, seed, 1.5, **often)
    (last,) = re.findall(r"resuming from step \d+", stdout)
    print(f"{done} kills, {saving} of them while saving, seed {seed}; the last life was {last}")
    assert saving > 0
    assert done == 20
    assert losses(runner.folder / "killed_20_times") == losses(runner.folder / "never_killed")
    assert sample_of(stdout) == sample_of(whole)


def add_an_empty_one(folder):
    folder.with_name("70").mkdir()


@pytest.mark.parametrize(("damage", "step"), few([(flip_a_byte, 60), (cut, 60), (add_an_empty_one, 70)]))
def test_a_damaged_newest_checkpoint_is_stepped_over(runner, finished, damage, step):
    run = runner.folder / damage.__name__
    subprocess.run(["cp", "-r", str(finished[0]), str(run)], check=True)
    damage(run / "checkpoints" / "60")
    stdout = runner.finish(run.name)
    assert f"checkpoint {step} is damaged (" in stdout
    assert ("resuming from step 50\n" if step == 60 else "finished before: all 60 steps are made\n") in stdout
    assert losses(run) == losses(finished[0])
    assert newest_step(run) == 60


@pytest.mark.thorough
def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_good_checkpoint_stays(runner, finished):
    run = runner.folder / "diverging"
    subprocess.run(["cp", "-r", str(finished[0]), str(run)], check=True)
    # The run goes on from step 60 under a rate that no model survives.
    fields = {"train.steps": 100, "optimizer.learning_rate": 1e30}
    config = json.loads((run / "train_config.json").read_text())
    config["train"]["steps"] = 100
    config["optimizer"]["learning_rate"] = 1e30
    (run / "train_config.json").write_text(json.dumps(config))
    for _ in range(2):  # the second time from the same checkpoint: it is whole
        code, stdout, stderr = runner.run(run.name, **fields)
        assert code == 1
        assert "resuming from step 60" in stdout
        found = re.fullmatch(r"error: step (\d+): found loss \S+ and gradient norm \S+, expected finite ones\n", stderr)
        assert found, stderr
        assert 61 < int(found[1]) <= 70
        assert newest_step(run) == 60
    assert losses(run)[: len(losses(finished[0]))] == losses(finished[0])


@pytest.mark.thorough
def test_another_config_is_refused_and_no_resume_moves_the_run_aside(runner, finished):
    run, _ = finished
    subprocess.run(["cp", "-r", str(run), str(runner.folder / "moved")], check=True)
    message = runner.refuse("moved", **{"model.d_model": 32, "train.steps": 40})
    for part in ("model.d_model: 16 there, 32 here", "train.steps: 60 there, 40 here", "--no-resume"):
        assert part in message
    stdout = runner.finish("moved", "--no-resume", **{"train.steps": 20})
    assert f"moved the run in {runner.folder / 'moved'} to {runner.folder / 'moved.1'}" in stdout
    assert losses(runner.folder / "moved.1") == losses(run)
    assert losses(runner.folder / "moved")[-1][0] == 20


def test_starting_from_another_run_takes_its_parameters_and_tokenizer(runner, finished):
    run, _ = finished
    runner.finish("from", "--init_from", str(run), **{"train.steps": 20, "train.eval_batches": 4, "model.d_model": 32})
    before, after = losses(run), losses(runner.folder / "from")
    # On the 4 batches of the first run's last evaluation: the number it ended on.
    assert after[0] == (0, None, pytest.approx(before[-1][2], rel=1e-6))
    config = json.loads((runner.folder / "from" / "train_config.json").read_text())
    assert config["model"]["d_model"] == 16
    assert config["data"]["tokenizer"] == f"saved:{run}"


@pytest.mark.thorough
def test_checkpoints_compare_by_the_batches_of_every_evaluation(runner, finished):
    run, _ = finished
    saved = json.loads((run / "checkpoints" / "60" / "metrics" / "metrics").read_text())["rank"]
    assert saved != losses(run)[-1][2]  # that is over the 4 batches of the end
    runner.finish("from_on_2", "--init_from", str(run), **{"train.steps": 1})
    assert losses(runner.folder / "from_on_2")[0][2] == pytest.approx(saved, rel=1e-6)


@pytest.mark.thorough
def test_a_vocabulary_that_does_not_fit_a_start_is_refused(runner, finished):
    run = runner.folder / "narrow"
    subprocess.run(["cp", "-r", str(finished[0]), str(run)], check=True)
    config = json.loads((run / "train_config.json").read_text())
    config["model"]["vocab_size"] = 9
    (run / "train_config.json").write_text(json.dumps(config))
    message = runner.refuse("from_narrow", "--init_from", str(run))
    assert message == f"error: model.vocab_size: found 9 in {run}, expected the tokenizer's 16"
    assert "found no folder" in runner.refuse("from_nowhere", "--init_from", str(runner.folder / "nowhere"))


def make(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("fields", "message"),
    few(
        [
            ({"data.path": "/nowhere.txt"}, r"error: data\.path: found /nowhere\.txt, no such file or folder"),
            ({"data.path": b""}, r"error: data.*found"),
            (
                {"data.path": b"text\xff\xfe"},
                r"error: data: found a byte that is not UTF-8 text in .*, at offset 4, exp",
            ),
            ({"data.path": b"abcdefgh" * 15}, r"error: data\.path: found 12 tokens in the validation part, .* = 17"),
            ({"model.d_model": 15}, r"model\.n_heads: found 2, expected a divisor of d_model=15 \(1, 3, 5, 15\)"),
            (
                {"model.architecture": "encoder"},
                r"error: model\.architecture: found 'encoder', expected 'decoder', which obj",
            ),
            ({"objective": "gpt"}, r"'gpt' for argument '--objective'"),
            ({"mesh.data": 2}, r"error: mesh: found data=2 .* expected a divisor of the 1 devices"),
            ({"mesh.data": 3}, r"train\.batch_size: found 4, expected a multiple of mesh\.data x mesh\.fsdp = 3"),
            ({"mesh.tensor": 3}, r"mesh\.tensor: found 3, expected a divisor of model\.n_heads=2"),
            ({"train.sample_prompt": "Zebra"}, r"error: train\.sample_prompt: .*found 'Z' at position 0"),
            ({"train.sample_prompt": "a" * 17}, r"error: train\.sample_prompt: found 17 tokens, .* context_length=16"),
            ({"train.step": 5}, r"Unrecognized options: --train\.step, 5 Perhaps you meant: --train\.steps"),
            ({"train.steps": "many"}, r"--train\.steps.*many"),
        ],
        4,
    ),
)
def test_a_mistake_is_refused_before_work_starts(runner, tmp_path, fields, message):
    fields = {k: make(tmp_path, "text.txt", v) if isinstance(v, bytes) else v for k, v in fields.items()}
    found = runner.refuse(f"refused_{tmp_path.name}", **fields)
    assert re.search(message, found), found
    assert not (runner.folder / f"refused_{tmp_path.name}" / "checkpoints").exists()


def test_an_unknown_config_file_is_refused(runner):
    command = [sys.executable, str(ROOT / "train.py"), "configs/nowhere.py"]
    found = subprocess.run(command, env=runner.env, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("error: config: found no file configs/nowhere.py, expected a .py file")
    assert found.stderr.count("\n") == 1

"""python -m jaxgpt generate, and what it refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny import TINY, draw

import jaxgpt
from jaxgpt import gpt
from jaxgpt.generation import generate_tokens
from jaxgpt.tokenizers import CharTokenizer
from jaxgpt.training import directory
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.state import TrainState

CFG = replace(TINY, n_layers=1)
TOKENIZER = CharTokenizer.train(["abcdefghijklmnopqrstuvw"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory whose better checkpoint is not the newest."""
    folder = tmp_path_factory.mktemp("run")
    directory.write(folder, TrainConfig(model=CFG), TOKENIZER)
    with Checkpoints(folder / directory.CHECKPOINTS) as checkpoints:
        for step, val_loss in ((1, 1.0), (2, 2.0)):
            params = draw(gpt.declare(CFG), step)
            checkpoints.save(
                TrainState(jnp.array(step), params, {"count": jnp.zeros(())}, jax.random.key(0)), "text", {}, val_loss
            )
        checkpoints.wait()
    return folder


def command(*options):
    """(exit code, standard output, standard error) of the command line."""
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "COLUMNS": "200", "NO_COLOR": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "jaxgpt", "generate", *options], env=env, capture_output=True, text=True, timeout=300
    )
    return found.returncode, found.stdout, found.stderr


def test_a_loaded_model_is_the_best_checkpoint_and_its_tokenizer(run):
    model = jaxgpt.load(run)
    jax.tree.map(
        lambda a, b: (a == b).all() or pytest.fail("another checkpoint"), model.params, draw(gpt.declare(CFG), 1)
    )
    assert model.config == CFG
    assert model.tokenizer.encode("cab") == [2, 0, 1]


def test_what_is_no_run_directory_is_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no train_config\.json, expected a run directory"):
        jaxgpt.load(tmp_path)
    directory.write(tmp_path, TrainConfig(model=CFG), TOKENIZER)
    with pytest.raises(FileNotFoundError, match="found no such folder, expected the checkpoints of a run"):
        jaxgpt.load(tmp_path)


def test_the_command_prints_the_prompt_and_what_generate_gives(run):
    options = ["--prompt", "cab", "--max_new_tokens", "30", "--temperature", "1", "--top_k", "9", "--seed", "4"]
    code, stdout, stderr = command("--model", str(run), *options)
    assert code == 0, stderr
    wanted = jaxgpt.generate(jaxgpt.load(run), "cab", max_new_tokens=30, temperature=1.0, top_k=9, seed=4)
    assert stdout == f"cab{wanted}\n"
    assert len(wanted) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "error: temperature: found -1.0, expected"),
        (["--top_p", "1.5"], "error: top_p: found 1.5, expected"),
        (["--top_k", "0", "--model", "nowhere"], "error: top_k: found 0, expected"),  # before the model is looked for
        (["--seed", "9" * 20], f"error: seed: found {'9' * 20}, expected an integer from 0, below 2**32"),
        (["--prompt", "a" * 20], "error: prompt 0: found 20 tokens, expected at most 19"),
        (["--prompt", "Z"], "found 'Z' at position 0"),
        (["--model", "nowhere"], "error: nowhere: found no train_config.json, expected a run directory"),
    ],
)
def test_a_mistake_is_one_line(run, options, message):
    code, stdout, stderr = command("--model", str(run), "--prompt", "a", *options)
    assert code == 1
    assert stdout == ""
    assert message in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def test_an_unknown_option_gets_the_nearest_name():
    code, _, stderr = command("--model", "x", "--temprature", "1")
    assert code == 2
    assert "--temperature" in stderr


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1])
def test_a_share_outside_its_range_is_refused(run, top_p):
    with pytest.raises(ValueError, match=rf"top_p: found {top_p}, expected"):
        jaxgpt.generate(jaxgpt.load(run), "a", max_new_tokens=1, temperature=1.0, top_p=top_p)


def test_prompts_that_do_not_fit_the_model_are_refused_with_numbers(run):
    model = jaxgpt.load(run)
    with pytest.raises(ValueError, match="prompt 1: found 20 tokens, expected at most 19"):
        jaxgpt.generate(model, ["a", "b" * 20], max_new_tokens=1)
    with pytest.raises(ValueError, match="prompt 0: found 20 tokens, expected at most 19"):
        generate_tokens(model.params, [[1] * 20], CFG, max_new_tokens=1)
    for token in (23, -1):
        with pytest.raises(ValueError, match=rf"token id: found {token}, expected 0\.\.22"):
            generate_tokens(model.params, [[1, token]], CFG, max_new_tokens=1)

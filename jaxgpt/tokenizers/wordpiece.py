"""WordPiece, BERT's tokenizer: trained here or read from a vocab.txt, either way a JSONTokenizer."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxgpt.checks import require
from jaxgpt.tokenizers.base import CONFIG_FILE, as_texts, read_object, well_formed
from jaxgpt.tokenizers.tokenizer_json import JSONTokenizer, import_library

VOCAB_FILE = "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALLEST = len(SPECIAL) + 2  # vocabulary: the special tokens, and one character at a word's start and within it

_PREFIX = "##"
_MAX_WORD = 100  # characters: a longer word is [UNK]
_MAX_ALPHABET = 1000  # the most frequent characters: a word with any other is [UNK]
_MIN_COUNT = 2  # of a pair of tokens that is joined: a token seen once is never learnt
_REPEATS = 10_000  # of a word in one text for the trainer
# Every other space, \x1c say, the normaliser may remove instead of dividing words there.
_PIECE = re.compile(r"(?s).{1,1000000}[^ \n]*")


def train(texts: str | Iterable[str], vocab_size: int, *, cased: bool = False) -> JSONTokenizer:
    """Joins the most frequent pairs of tokens in texts until there are vocab_size tokens, [PAD] the first of them.

    texts: read once, never held in memory all together; the same texts give the same tokenizer. If pairs that occur
        twice run out, the vocabulary stays smaller.
    cased: whether case and accents count.
    Raises ImportError without the tokenizers library, ValueError if texts hold no word or vocab_size is less than the
    special tokens and every character, at a word's start and within it.
    Source: Schuster and Nakajima 2012, section 3, joining by count as BPE does; Devlin et al. 2019, section 3.
    """
    library = import_library()
    words = _count(texts, library.normalizers.BertNormalizer(lowercase=not cased), library.pre_tokenizers)
    require(len(words) > 0, "texts", "no words", "at least one")
    alphabet = _alphabet(words)
    characters = [*sorted(alphabet), *(_PREFIX + character for character in sorted(alphabet))]
    smallest = len(SPECIAL) + len(characters)
    expected = f"at least {smallest}: {len(SPECIAL)} special tokens and {len(alphabet)} characters in two forms each"
    require(vocab_size >= smallest, "vocab_size", vocab_size, expected)

    # The trainer numbers and compares ##x by hash tables seeded anew in each process, except those it is given.
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_COUNT,
        special_tokens=[*SPECIAL, *characters],
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    learner = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(words, alphabet), trainer)
    return _tokenizer(learner.get_vocab(), lowercase=not cased)


def from_vocab(path: str | Path, *, cased: bool | None = None) -> JSONTokenizer:
    """The tokenizer of a BERT vocabulary: a token a line, ids in the order of lines.

    path: the vocab.txt or its folder.
    cased: whether case and accents count; None: as the tokenizer_config.json beside the file says, else they do not.
    Raises FileNotFoundError if there is no such file, ImportError without the tokenizers library, ValueError for a
    file that is empty, repeats a token or lacks a special one, and where case is told by nothing but capitals in it.
    """
    file = vocab_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path}: found no {VOCAB_FILE}")
    vocab = _read(file)
    config = read_object(file.with_name(CONFIG_FILE))
    options = {"do_lower_case": None, "strip_accents": None, "tokenize_chinese_chars": True} | config
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        known = options[name] in (True, False, None)
        require(known, f"{file.with_name(CONFIG_FILE)}: {name}", options[name], "true, false or null")
    lowercase = options["do_lower_case"] if cased is None else not cased
    if lowercase is None:
        capital = next((token for token in vocab if re.match("(##)?[A-Z]", token)), None)
        told = f"none where case does not count: name it vocab:cased:<path>, or set do_lower_case in a {CONFIG_FILE}"
        require(capital is None, f"{file}: capitals", capital, told)
        lowercase = True
    return _tokenizer(
        vocab,
        lowercase=lowercase,
        strip_accents=options["strip_accents"],
        handle_chinese_chars=options["tokenize_chinese_chars"] is not False,
    )


def vocab_file(path: str | Path) -> Path:
    """The vocab.txt, from its own path, whatever its name, or its folder's."""
    return Path(path) / VOCAB_FILE if Path(path).is_dir() else Path(path)


def _tokenizer(vocab: dict[str, int], **normalizer: Any) -> JSONTokenizer:
    """BERT's tokenizer with this vocabulary."""
    library = import_library()
    built = library.Tokenizer(
        library.models.WordPiece(
            vocab, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD, continuing_subword_prefix=_PREFIX
        )
    )
    built.normalizer = library.normalizers.BertNormalizer(**normalizer)
    built.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    built.decoder = library.decoders.WordPiece(prefix=_PREFIX)
    built.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    # Not normalised: lower-casing would leave no "[MASK]" to find.
    built.add_special_tokens([library.AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normalizer["lowercase"],
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
    }
    roles = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return JSONTokenizer(built.to_str(), {CONFIG_FILE: json.dumps(config | roles, indent=2)})


def _read(file: Path) -> dict[str, int]:
    """The ids of the tokens of a vocab.txt."""
    try:
        # Only a line feed ends a token: splitlines would cut at U+2028, a token in some vocabularies.
        tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: found bytes that are not UTF-8 ({error}), expected a token a line") from error
    require(tokens != [""], f"{file}", "no tokens", "one a line")
    vocab: dict[str, int] = {}
    for i, token in enumerate(tokens):
        expected = f"a token of its own: line {vocab.get(token, 0) + 1} has it"
        require(vocab.setdefault(token, i) == i, f"{file}, line {i + 1}", token, expected)
    missing = [token for token in SPECIAL if token not in vocab]
    require(not missing, f"{file}", f"no {', '.join(missing)}", f"all of {', '.join(SPECIAL)}")
    return vocab


def _count(texts: str | Iterable[str], normalizer: Any, pre_tokenizers: Any) -> Counter[str]:
    """How often each word occurs that is short enough to be encoded."""
    words: Counter[str] = Counter()
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    for text in as_texts(texts):
        for piece in _PIECE.finditer(well_formed(text)):
            # What spaces divide is counted first: the library is called for one in seven.
            parts = Counter(normalizer.normalize_str(piece.group()).split(" "))
            for part, count in parts.items():
                for word, _ in split(part):
                    words[word] += count
    return Counter({word: count for word, count in words.items() if len(word) <= _MAX_WORD})


def _alphabet(words: Counter[str]) -> frozenset[str]:
    """The most frequent characters; of two as frequent, the one with the lower code point."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return frozenset(sorted(counts, key=lambda character: (-counts[character], character))[:_MAX_ALPHABET])


def _repeated(words: Counter[str], alphabet: frozenset[str]) -> Iterator[str]:
    """Texts with every word as often as it was counted, but for those that teach nothing."""
    for word, count in words.items():
        if len(word) > 1 and alphabet.issuperset(word):
            for start in range(0, count, _REPEATS):
                yield " ".join([word] * min(_REPEATS, count - start))

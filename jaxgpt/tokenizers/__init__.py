"""Text to token ids and back: characters, words, byte-level BPE, WordPiece, Marian's and tokenizer.json."""

from jaxgpt.tokenizers import wordpiece
from jaxgpt.tokenizers.base import Tokenizer
from jaxgpt.tokenizers.bpe import BPETokenizer
from jaxgpt.tokenizers.char import CharTokenizer
from jaxgpt.tokenizers.chat import ChatTemplate
from jaxgpt.tokenizers.marian import MarianTokenizer
from jaxgpt.tokenizers.registry import check, create, load
from jaxgpt.tokenizers.streaming import StreamedText, StreamingDecoder
from jaxgpt.tokenizers.tokenizer_json import JSONTokenizer
from jaxgpt.tokenizers.word import WordTokenizer

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "ChatTemplate",
    "JSONTokenizer",
    "MarianTokenizer",
    "StreamedText",
    "StreamingDecoder",
    "Tokenizer",
    "WordTokenizer",
    "check",
    "create",
    "load",
    "wordpiece",
]

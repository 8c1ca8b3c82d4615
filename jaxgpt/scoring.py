"""The log-likelihood of texts that may follow a prompt, and classification by the likeliest label.

What all prompts begin with, the examples of a few-shot prompt say, is encoded once, into a cache. What follows it is
packed as trees into the rows of a batch: texts that begin alike are one branch up to where they part, a token sees the
cache and its own ancestors alone, and logits are computed where a continuation is scored only.

A prompt and its continuation are tokens as lm-evaluation-harness has it: see `encode_pairs`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import gpt
from jaxgpt.attention import KVCache
from jaxgpt.bars import shown
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.decoding import prefill, widen
from jaxgpt.model import Model, prepare
from jaxgpt.prompting import Example, few_shot
from jaxgpt.rows import power_of_two
from jaxgpt.sharding import fetch
from jaxgpt.tokenizers import Tokenizer

WIDTH = 256  # tokens of a row of trees, if none is longer: each row costs a copy of the shared cache
TOKENS = 2048  # of a batch
PLACES = 128  # whose logits are computed at once: 26 MB of GPT-2's

Pair = tuple[Sequence[int], Sequence[int]]
Tree = dict[tuple[int, int], int]  # (the node before, -1 at a root; token) -> node


class LogLikelihood(NamedTuple):
    """Of a continuation: the sum of its tokens' log-probabilities in nats; whether each is the likeliest of all ids."""

    nats: float
    greedy: bool


class Classification(NamedTuple):
    """The likeliest label, and the score of each."""

    label: str
    scores: dict[str, float]


def classify(
    model: Model,
    queries: Sequence[Example],
    labels: Sequence[str],
    *,
    template: str,
    shots: Sequence[Example] = (),
    separator: str = "\n\n",
    per: str = "text",
) -> list[Classification]:
    """The label that is likeliest to follow each query's prompt: `few_shot` of the template, the query and the shots.

    Raises ValueError as `few_shot` and `score` do.
    """
    prompts = [few_shot(template, query, shots, separator=separator) for query in queries]
    found = [dict(zip(labels, scores, strict=True)) for scores in score(model, prompts, labels, per=per)]
    return [Classification(max(scores, key=scores.get), scores) for scores in found]


def score(
    model: Model,
    prompts: str | Sequence[str],
    continuations: Sequence[str] | Sequence[Sequence[str]],
    *,
    per: str = "text",
    progress: bool = False,
) -> list[float] | list[list[float]]:
    """The log-likelihood, in nats, of each continuation of a prompt; of several prompts, a list of that.

    continuations: those of every prompt, or a list of them for each. per: "text", the whole continuation; or "token" or
    "byte", its mean over them, so that a longer one is no less likely for its length. progress: show a bar, on a
    terminal.
    An empty prompt, unless it is framed, is `Tokenizer.start`. But for rounding, no score depends on those beside it.
    Raises ValueError, before any work, where there is no continuation, an empty one, or one that is with its prompt
    longer than context_length; and for a model that is no decoder.
    """
    require(per in ("text", "token", "byte"), "per", per, "text, token or byte")
    require(not isinstance(continuations, str), "continuations", continuations, "a list of texts")
    many = [prompts] if isinstance(prompts, str) else list(prompts)
    if isinstance(prompts, str) or all(isinstance(one, str) for one in continuations):
        continuations = [continuations] * len(many)
    require(len(continuations) == len(many), "continuations", f"{len(continuations)} lists", f"{len(many)}, as prompts")
    names, texts = [], []
    for i, (prompt, candidates) in enumerate(zip(many, continuations, strict=True)):
        require(len(candidates) > 0, f"continuations of prompt {i}", "none", "at least one")
        names += [f"prompt {i}, continuation {j}" for j in range(len(candidates))]
        texts += [(prompt, candidate) for candidate in candidates]
    for name, (_, text) in zip(names, texts, strict=True):
        require(text != "", name, text, "at least one character")
    pairs = encode_pairs(model.tokenizer, texts)
    _check(pairs, model.config, names.__getitem__)
    found = loglikelihoods(model.inference_params, pairs, model.inference_config, progress=progress)
    lengths = {
        "text": lambda pair, text: 1,
        "token": lambda pair, text: len(pair[1]),
        "byte": lambda pair, text: len(text[1].encode("utf-8", "surrogatepass")),
    }
    scores = iter([one.nats / lengths[per](*of) for one, *of in zip(found, pairs, texts, strict=True)])
    lists = [list(itertools.islice(scores, len(candidates))) for candidates in continuations]
    return lists[0] if isinstance(prompts, str) else lists


def encode_pairs(tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The tokens of (prompt, continuation): white space between the two belongs to the continuation.

    That is what encode(prompt + continuation) has after as many tokens as encode(prompt), both framed (<s> prompt,
    Llama's), with the prompt's trailing white space moved to the continuation: " positive" is the one token that a
    model has seen after "Sentiment:".
    Source: lm-evaluation-harness, `TemplateLM._encode_pair`.
    """
    prompts = [prompt.rstrip() for prompt, _ in texts]
    contexts = map(tokenizer.frame, tokenizer.encode_batch(prompts))
    wholes = map(tokenizer.frame, tokenizer.encode_batch([prompt + continuation for prompt, continuation in texts]))
    return [
        (context or tokenizer.start, whole[len(context) :]) for context, whole in zip(contexts, wholes, strict=True)
    ]


def loglikelihoods(
    params: dict, pairs: Sequence[Pair], cfg: ModelConfig, *, progress: bool = False
) -> list[LogLikelihood]:
    """Of each (context, continuation), both token ids: how likely the one goes on with the other.

    params: as from `gpt.init`; `model.prepare` them once if there are many calls. progress: show a bar, on a terminal.
    Raises ValueError, before any work, for a pair without a context or a continuation, for one of more than
    context_length + 1 tokens (the last is predicted and not read), and for an id beyond the vocabulary.
    """
    _check(pairs, cfg, "pair {}".format)
    if not pairs:
        return []
    params = prepare(params, cfg.dtype)
    shared = _shared([context for context, _ in pairs])
    prefix = _encode(params, pairs[0][0][:shared], cfg)
    found: dict[int, LogLikelihood] = {}
    for rows in shown(list(_pack(pairs, shared)), "likelihoods", progress):
        tokens, tree, places, children, scored = _lay_out(rows, pairs)
        nats, greedy = (fetch(x) for x in _predict(params, prefix, tokens, tree, places, children, cfg))
        for i, at in scored.items():
            found[i] = LogLikelihood(float(nats[at].sum(dtype=np.float64)), bool(greedy[at].all()))
    return [found[i] for i in range(len(pairs))]


def _shared(contexts: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with, of those before the last, whose logits are the first that are asked for."""
    first, last = min(map(tuple, contexts)), max(map(tuple, contexts))
    same = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], zip(first, last, strict=False)))
    return min(same, *(len(context) - 1 for context in contexts))


def _encode(params: dict, tokens: Sequence[int], cfg: ModelConfig) -> KVCache:
    """A full cache of one row, its slots a power of two."""
    if not tokens:
        return KVCache.empty(cfg, 1, 0)
    slots = min(max(16, power_of_two(len(tokens))), cfg.context_length)
    row = np.zeros((1, slots), np.int32)
    row[0, slots - len(tokens) :] = tokens
    return prefill(params, row, np.array([len(tokens)]), cfg, slots)[1]


class _Row(NamedTuple):
    """Trees side by side: its tokens. paths: of each pair, the nodes whose next token is scored."""

    width: int
    tree: Tree
    paths: dict[int, list[int]]


def _pack(pairs: Sequence[Pair], shared: int) -> Iterator[list[_Row]]:
    """Batches of rows of like width. Pairs that begin alike come one after the other, and so into one tree."""
    texts = [[*context, *continuation][shared:-1] for context, continuation in pairs]
    widths = [max(WIDTH, power_of_two(len(text))) for text in texts]
    rows: list[_Row] = []
    for i in sorted(range(len(pairs)), key=lambda i: (widths[i], texts[i])):
        if not rows or rows[-1].width < widths[i] or len(rows[-1].tree) + _new(rows[-1].tree, texts[i]) > widths[i]:
            rows.append(_Row(widths[i], {}, {}))
        tree, node, path = rows[-1].tree, -1, []
        for token in texts[i]:
            node = tree.setdefault((node, token), len(tree))
            path.append(node)
        rows[-1].paths[i] = path[-len(pairs[i][1]) :]
    for width, alike in itertools.groupby(rows, key=lambda row: row.width):
        alike = list(alike)
        size = max(1, TOKENS // width)
        yield from (alike[at : at + size] for at in range(0, len(alike), size))


def _new(tree: Tree, text: Sequence[int]) -> int:
    """How many nodes the text would add."""
    node = -1
    for known, token in enumerate(text):
        if (node, token) not in tree:
            return len(text) - known
        node = tree[node, token]
    return 0


def _lay_out(
    rows: Sequence[_Row], pairs: Sequence[Pair]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """The arguments of `_predict`, and where in its results each pair's tokens are. Every axis is a power of two."""
    width = power_of_two(max(16, *(len(row.tree) for row in rows)))
    tokens = np.zeros((power_of_two(len(rows)), width), np.int32)
    tree = np.zeros((*tokens.shape, width), bool)
    known: dict[int, int] = {}  # place -> its number
    options: list[dict[int, int]] = []  # at each: token -> column
    scored = {}
    for r, row in enumerate(rows):
        for (parent, token), node in row.tree.items():
            tokens[r, node] = token
            if parent >= 0:
                tree[r, node] = tree[r, parent]
            tree[r, node, node] = True
        for i, path in row.paths.items():
            at = []
            for node, token in zip(path, pairs[i][1], strict=True):
                place = known.setdefault(r * width + node, len(known))
                if place == len(options):
                    options.append({})
                at.append((place, options[place].setdefault(token, len(options[place]))))
            scored[i] = tuple(np.array(at).T)
    places = np.zeros(power_of_two(max(16, len(known))), np.int32)
    places[: len(known)] = list(known)
    children = np.zeros((len(places), power_of_two(max(4, *map(len, options)))), np.int32)
    for row, option in zip(children, options, strict=False):
        row[: len(option)] = list(option)
    return tokens, tree, places, children, scored


@functools.partial(jax.jit, static_argnames="cfg")
def _predict(
    params: dict,
    prefix: KVCache,
    tokens: Int[Array, "rows width"],
    tree: Bool[Array, "rows width width"],
    places: Int[Array, "places"],
    children: Int[Array, "places fan"],
    cfg: ModelConfig,
) -> tuple[Float[Array, "places fan"], Bool[Array, "places fan"]]:
    """The log-probability of each child of a place, and whether it is the likeliest token there.

    tree: a token's ancestors and itself; none for padding. places: in tokens, flat.
    """
    rows, width = tokens.shape
    slots = prefix.positions.shape[1]
    before = (prefix.positions >= 0)[:, None] & tree.any(-1, keepdims=True)
    cache = widen(prefix, cfg, slots + width, rows)
    x, _ = gpt.hidden(params, tokens, cfg, cache=cache, tree=jnp.concatenate([before, tree], -1))

    def read(some):
        states, children = some
        logits = gpt.head(params, states[None], cfg)[0]
        nats = jnp.take_along_axis(logits, children, 1) - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return nats, children == logits.argmax(-1)[:, None]

    # A part at a time: the logits of all places would be most of the memory.
    states = x.reshape(-1, cfg.d_model)[places]
    parts = (y.reshape(-1, min(PLACES, len(places)), y.shape[1]) for y in (states, children))
    return jax.tree.map(lambda y: y.reshape(children.shape), jax.lax.map(read, tuple(parts)))


def _check(pairs: Sequence[Pair], cfg: ModelConfig, name: Callable[[int], str]) -> None:
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, to score a text")
    most = cfg.context_length + 1
    for i, (context, continuation) in enumerate(pairs):
        require(len(context) > 0, name(i), "no tokens of a context", "at least one to start from")
        require(len(continuation) > 0, name(i), "no tokens of a continuation", "at least one to score")
        total = len(context) + len(continuation)
        expected = f"at most {most}: context_length={cfg.context_length}, and the last, which is predicted and not read"
        require(total <= most, name(i), f"{total} tokens", expected)
        for token in (find(ids) for find in (min, max) for ids in (context, continuation)):
            require(0 <= token < cfg.vocab_size, "token id", token, f"0..{cfg.vocab_size - 1}")

"""jaxgpt's decoders under EleutherAI's lm-evaluation-harness, with the conventions of its own `hf` model.

    lm_eval.simple_evaluate(model=HarnessModel(jaxgpt.load(path)), tasks=[...])

Nothing else imports this module, which needs the `lm-eval` extra.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Array, Key

from jaxgpt.bars import shown
from jaxgpt.checks import check_names, require
from jaxgpt.generation import pieces, random_key, row_keys
from jaxgpt.model import Model
from jaxgpt.pipelines.text_generation import Options, said
from jaxgpt.scoring import loglikelihoods

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError("to run lm-eval's tasks needs lm-eval: pip install 'jaxgpt[lm-eval]'") from error

NEW_TOKENS = 256  # where a task does not say, as `hf` has it
MANY = 1024  # pairs at once: they are packed together, and a bar tells how far it is


class HarnessModel(TemplateLM):
    """A decoder as lm-eval asks for one: log-likelihoods of continuations and of whole texts, and greedy or drawn text.

    As `hf` does, it reads special tokens in a text as such, frames a text as the tokenizer says unless it begins with
    the start token, puts the start token (of none the end) before an empty context and before a rolling text, and cuts
    what is too long at its left. batch_size: prompts that are gone on with at once.
    Raises ValueError for a model that is no decoder with a language-model head.
    Source: lm-evaluation-harness 0.4.13, `lm_eval.models.huggingface.HFLM`.
    """

    def __init__(self, model: Model, *, name: str = "jaxgpt", batch_size: int = 16):
        super().__init__()
        cfg = model.config
        require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, for lm-eval")
        require(cfg.head == "lm", "model.head", cfg.head, "lm, for lm-eval")
        require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
        self.model, self.name, self.batch_size = model, name, batch_size
        self.max_length = cfg.context_length

    @property
    def eot_token_id(self) -> int:
        end = self.model.tokenizer.end_of_text
        return self.prefix_token_id if end is None else end

    @property
    def prefix_token_id(self) -> int:
        begin = self.model.tokenizer.begin_of_text
        return self.model.tokenizer.start[0] if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(string, allowed_special="all")
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(tokenizer.decode([self.prefix_token_id]))
        return tokenizer.frame(ids) if add_special_tokens else ids

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        windows, owners = [], []
        for i, (text,) in enumerate(request.args for request in requests):
            ids = self.tok_encode(text)
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (nats, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[i] += nats
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = {}  # those of the same options together
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        running = []  # each refuses what it can't use before the first begins
        for group in groups.values():
            decoding = _Decoding(self, requests[group[0]].args[1])
            ids = {i: decoding.prompt(requests[i].args[0]) for i in group}
            group.sort(key=lambda i, ids=ids: len(ids[i]))
            keys = row_keys(random_key(0), [ids[i] for i in group])  # of all: a prompt that stands twice is drawn twice
            for at in range(0, len(group), self.batch_size):
                batch = group[at : at + self.batch_size]
                running.append((batch, decoding.texts([ids[i] for i in batch], keys[at : at + len(batch)])))
        texts: dict[int, str] = {}
        for batch, found in shown(running, "generate_until", not disable_tqdm):
            texts |= dict(zip(batch, found, strict=True))
            for i in batch:
                self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return [texts[i] for i in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        template = self.model.tokenizer.chat_template
        require(template is not None, "tokenizer", self.model.tokenizer.kind, "one with a chat template")
        return template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template = self.model.tokenizer.chat_template
        return template.source if chat_template and template is not None else None

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        most = self.max_length
        pairs = []
        for i, (_, context, continuation) in enumerate(requests):
            require(len(continuation) <= most, f"continuation {i}", f"{len(continuation)} tokens", f"at most {most}")
            pairs.append((context[-(most + 1 - len(continuation)) :], continuation))
        found: list[tuple[float, bool]] = []
        parts = [pairs[at : at + MANY] for at in range(0, len(pairs), MANY)]
        for part in shown(parts, "loglikelihood", not disable_tqdm):
            scored = loglikelihoods(self.model.inference_params, part, self.model.inference_config)
            found += [(one.nats, one.greedy) for one in scored]
        for (texts, *_), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found


class _Decoding:
    """How texts are made by a task's generation_kwargs."""

    def __init__(self, harness: HarnessModel, options: dict[str, Any]):
        self._harness, self._model = harness, harness.model
        chosen = normalize_gen_kwargs(options, NEW_TOKENS)
        end = self._model.tokenizer.decode([harness.eot_token_id])
        self._until = handle_stop_sequences(chosen.pop("until"), eos=end)
        self._new, most = chosen.pop("max_gen_toks"), harness.max_length
        require(0 < self._new < most, "max_gen_toks", self._new, f"1..{most - 1}, below context_length")
        if not chosen["do_sample"]:
            chosen.pop("temperature", None)
        check_names(chosen, Options)
        self._sampler = Options(**(said(self._model.generation) | chosen)).sampler()

    def prompt(self, text: str) -> list[int]:
        """Its last tokens, as many as leave room for the new ones."""
        ids = self._harness.tok_encode(text) or [self._harness.prefix_token_id]
        return ids[self._new - self._harness.max_length :]

    def texts(self, prompts: Sequence[Sequence[int]], keys: Key[Array, "rows"]) -> Iterator[str]:
        """What follows each prompt, up to the first of the task's `until`, computed when the first is asked for."""
        special = self._model.tokenizer.special_tokens
        found = pieces(
            self._model,
            prompts,
            keys,
            max_new_tokens=self._new,
            sampler=self._sampler,
            stop=[stop for stop in self._until if stop and stop not in special],
            # A special token is in no text, and ends one all the same.
            end_tokens=[
                *self._model.generation.end_tokens,
                *(special[stop] for stop in self._until if stop in special),
            ],
            alone=True,
        )
        rows = (row for several in [found] for row in zip(*several, strict=True))
        return (postprocess_generated_text("".join(row), self._until, None) for row in rows)

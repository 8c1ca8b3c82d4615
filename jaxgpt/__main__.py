"""The command line: python -m jaxgpt generate | chat | fill-mask | translate | attention | evaluate | export | ..."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import tyro

from jaxgpt.checks import require
from jaxgpt.evaluation.command import Evaluate


@dataclass(frozen=True)
class Generate:
    """Write what follows a prompt, piece by piece."""

    model: str
    """Run directory, or a checkpoint's folder or repository."""
    prompt: str = ""
    """What to go on from (empty: the beginning of a text)."""
    max_new_tokens: int = 200
    """Most tokens to write."""
    temperature: float = 0.8
    """0 takes the likeliest token each time; 1 draws from the model's own distribution."""
    top_k: int | None = None
    """Draw from this many likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probability reaches this."""
    min_p: float | None = None
    """Draw from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: make tokens that are there already less likely."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings."""
    seed: int = 0
    """Of the draws."""

    def run(self) -> None:
        import jaxgpt
        from jaxgpt.sampling import Sampler

        # Refuses its numbers, before a model is read.
        Sampler(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        options = {name: value for name, value in vars(self).items() if name not in ("model", "prompt", "stop")}
        pieces = jaxgpt.stream(jaxgpt.load(self.model), self.prompt, stop=list(self.stop) or None, **options)
        print(self.prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


@dataclass(frozen=True)
class Chat:
    """Talk with a model. Ctrl-C stops an answer, at the prompt it ends the talk, as Ctrl-D does."""

    model: str
    """A checkpoint's folder or repository, with a chat template."""
    system: str | None = None
    """What the model is told first."""
    max_new_tokens: int | None = None
    """Most tokens of an answer (None: as the checkpoint says, else 512)."""
    temperature: float | None = None
    """0 takes the likeliest token each time; None, here and below: as the checkpoint says."""
    top_k: int | None = None
    """Draw from this many likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probability reaches this."""
    min_p: float | None = None
    """Draw from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: make tokens that are there already less likely."""
    seed: int = 0
    """Of the draws."""

    def run(self) -> None:
        import jaxgpt
        from jaxgpt.chat import Chat

        options = {name: value for name, value in vars(self).items() if name != "model" and value is not None}
        if self.temperature is not None:
            options["do_sample"] = self.temperature > 0
        chat = Chat(jaxgpt.load(self.model), **options)
        typed = sys.stdin.isatty()
        if typed:
            with suppress(ImportError):  # on Windows
                import readline  # noqa: F401 (lines that can be edited, and earlier ones)
        while True:
            try:
                text = input("> " if typed else "")
            except (EOFError, KeyboardInterrupt):
                return print() if typed else None
            if text.strip():
                self._answer(chat, text)

    def _answer(self, chat: Any, text: str) -> None:
        try:
            answer = chat.ask(text)
            if answer.forgotten:
                print(f"({answer.forgotten} oldest messages left out: no room for them)", file=sys.stderr)
            for piece in answer.pieces:
                print(piece, end="", flush=True)
            print()
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(" (stopped)")


@dataclass(frozen=True)
class FillMask:
    """List the likeliest tokens of each blank in a text."""

    model: str
    """Run directory, of a model that was trained to fill in tokens."""
    text: str
    """The text, with the tokenizer's mask token where a blank is, as in "The [MASK] sat"."""
    top_k: int = 5
    """Tokens to list for each."""

    def run(self) -> None:
        import jaxgpt

        blanks = jaxgpt.fill_mask(jaxgpt.load(self.model), self.text, top_k=self.top_k)
        width = max(len(_line(one.text)) for blank in blanks for one in blank)
        for i, blank in enumerate(blanks):
            if i > 0:
                print()
            if len(blanks) > 1:
                print(f"blank {i + 1}")
            for one in blank:
                token, share = _line(one.text).ljust(width), f"{one.probability:6.1%} {_bar(one.probability)}"
                print(f"{token}  {share}  {_line(one.filled)}")


@dataclass(frozen=True)
class Translate:
    """Write the translation of each text; without texts, of each line of standard input, a line for a line."""

    model: str
    """Run directory, of a model that was trained on pairs of texts."""
    texts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to translate."""
    beam: int = 4
    """Hypotheses to keep; 1 takes the likeliest token each time, or draws."""
    length_penalty: float = 1.0
    """Above 0: prefer longer translations of a beam."""
    max_new_tokens: int | None = None
    """Most tokens of a translation (None: by the length of its text)."""
    temperature: float = 0.0
    """Above 0, with --beam 1: draw, at 1 from the model's own distribution."""
    seed: int = 0
    """Of the draws."""
    batch_size: int = 64
    """Texts to translate at once; 16 times as many lines are read ahead (typed at a terminal: 1)."""

    def run(self) -> None:
        import jaxgpt

        model = jaxgpt.load(self.model)
        options = {name: value for name, value in vars(self).items() if name not in ("model", "texts")}

        def translate(texts: list[str]) -> list[str]:
            return jaxgpt.translate(model, texts, **options)

        translate([])  # refuses its numbers, before a line is read
        if self.texts:
            _each_line(translate, list(self.texts))
        else:
            _each_line_of(sys.stdin, translate, 1 if sys.stdin.isatty() else 16 * self.batch_size)


@dataclass(frozen=True)
class Attention:
    """Draw what a model looks at: the attention weights of a layer, a heat map a head."""

    model: str
    """Run directory, or a checkpoint's folder or repository."""
    text: str
    """What the model reads; of a translator, the source."""
    target: str | None = None
    """A translator's target (None: its own greedy translation)."""
    kind: str | None = None
    """Of a translator: encoder, decoder or cross (None: cross)."""
    layer: int = -1
    """Which layer, from 0; below 0 counts from the last."""
    heads: tuple[int, ...] = ()
    """Which heads, from 0 (none given: all)."""
    mean: bool = False
    """The mean of all heads, in place of each."""
    out: str = "attention.png"
    """The picture."""

    def run(self) -> None:
        import jaxgpt
        from jaxgpt.inspection import attention_maps
        from jaxgpt.pictures import draw_attention

        require(not (self.heads and self.mean), "heads", list(self.heads), "none beside --mean")
        maps = attention_maps(jaxgpt.load(self.model), self.text, self.target)
        kind = next(reversed(maps)) if self.kind is None else self.kind
        require(kind in maps, "kind", kind, f"one of {', '.join(maps)}")
        heads = "mean" if self.mean else self.heads or "all"
        title = "cross attention (each row chooses the token after it)" if kind == "cross" else f"{kind} attention"
        draw_attention(maps[kind], self.out, layer=self.layer, heads=heads, title=title)
        print(self.out)


@dataclass(frozen=True)
class Export:
    """Write a run as a checkpoint for other libraries: config.json, model.safetensors and the tokenizer's files."""

    run_directory: tyro.conf.Positional[str]
    """The run."""
    out: str | None = None
    """The folder to write (None: into the run directory itself, which then is both)."""
    max_shard_gigabytes: float = 5.0
    """Above it, the weights become several files."""

    def run(self) -> None:
        from jaxgpt.loading import export

        require(self.max_shard_gigabytes > 0, "max_shard_gigabytes", self.max_shard_gigabytes, "a number above 0")
        family = export(self.run_directory, self.out, max_shard_bytes=int(self.max_shard_gigabytes * 1e9))
        print(f"{self.out or self.run_directory}: a {family} checkpoint")


@dataclass(frozen=True)
class Compare:
    """Run a checkpoint here and in transformers: the largest difference of logits, greedy tokens that agree, speed."""

    folder: tyro.conf.Positional[str]
    """A checkpoint's folder or repository, or a run directory that is one."""
    text: str | None = None
    """What both read (None: a sentence of English)."""
    new_tokens: int = 64
    """Greedy tokens to make."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of parameters and activations."""

    def run(self) -> None:
        from jaxgpt.comparison import TEXT, compare

        text = TEXT if self.text is None else self.text
        print(compare(self.folder, text, new_tokens=self.new_tokens, dtype=self.dtype).lines())


def _each_line(change: Callable[[list[str]], list[str]], texts: list[str]) -> None:
    """Print what becomes of each text, a line each; of a blank one, a blank line."""
    changed = iter(change([text for text in texts if text.strip()]))
    for text in texts:
        print(_line(next(changed)) if text.strip() else "")
    sys.stdout.flush()


def _each_line_of(file: Iterator[str], change: Callable[[list[str]], list[str]], size: int) -> None:
    """`_each_line` of a file, `size` lines at once. Raises ValueError, naming the lines, where one can't be changed."""
    read = 0
    while lines := list(islice(file, size)):
        try:
            _each_line(change, lines)
        except ValueError as error:
            raise ValueError(f"lines {read + 1} to {read + len(lines)}: {error}") from error
        read += len(lines)


def _line(text: str) -> str:
    """The text on one line."""
    return " ".join(text.splitlines())


def _bar(share: float, width: int = 20) -> str:
    """A bar of so many characters for 1, drawn to eighths of one."""
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).ljust(width)[:width]


def main() -> None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "generate": Generate,
            "chat": Chat,
            "fill-mask": FillMask,
            "translate": Translate,
            "attention": Attention,
            "evaluate": Evaluate,
            "export": Export,
            "compare": Compare,
        },
        prog="python -m jaxgpt",
        use_underscores=True,
    )
    try:
        command.run()
    except (ValueError, OSError, ImportError) as error:  # an extra that is missing says how to install it
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

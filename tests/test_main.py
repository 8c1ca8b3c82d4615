"""python -m jaxgpt, and what it refuses."""

import inspect
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from phi3 import write_tokenizer
from tiers import few
from tiny import SCHEMES, TINY, draw

import jaxgpt
from jaxgpt import __main__, chat, gpt, pictures, tokenizers
from jaxgpt.generation import generate_tokens
from jaxgpt.model import GenerationDefaults, Model, Settings, by_layer, declarations
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, wordpiece
from jaxgpt.training import directory
from jaxgpt.training.checkpoints import Checkpoints
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.state import TrainState

CFG = replace(TINY, n_layers=1)
TOKENIZER = CharTokenizer.train(["abcdefghijklmnopqrstuvw"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory whose better checkpoint is not the newest."""
    folder = tmp_path_factory.mktemp("run")
    directory.write(folder, TrainConfig(model=CFG), TOKENIZER, Settings())
    with Checkpoints(folder / directory.CHECKPOINTS) as checkpoints:
        for step, val_loss in ((1, 1.0), (2, 2.0)):
            params = draw(gpt.declare(CFG), step)
            checkpoints.save(
                TrainState(jnp.array(step), params, {"count": jnp.zeros(())}, jax.random.key(0)), "text", {}, val_loss
            )
        checkpoints.wait()
    return folder


def command(*options, name="generate", stdin=None):
    """(exit code, standard output, standard error) of the command line."""
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {
        "PYTHONPATH": str(root),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    found = subprocess.run(
        [sys.executable, "-m", "jaxgpt", name, *options],
        env=env, capture_output=True, text=True, timeout=300, input=stdin,
    )  # fmt: skip
    return found.returncode, found.stdout, found.stderr


def test_a_loaded_model_is_the_best_checkpoint_and_its_tokenizer(run):
    model = jaxgpt.load(run)
    best = by_layer(draw(gpt.declare(CFG), 1), "float32")  # a tree a layer, as load gives them
    jax.tree.map(lambda a, b: (a == b).all() or pytest.fail("another checkpoint"), model.params, best)
    assert model.config == CFG
    assert model.tokenizer.encode("cab") == [2, 0, 1]


def test_a_folder_without_a_model_is_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no weights, expected model\.safetensors"):
        jaxgpt.load(tmp_path)
    directory.write(tmp_path, TrainConfig(model=CFG), TOKENIZER, Settings())
    with pytest.raises(FileNotFoundError, match="found a run without a checkpoint, expected one that has saved"):
        jaxgpt.load(tmp_path)


def test_the_command_prints_the_prompt_and_what_generate_gives(run):
    options = ["--prompt", "cab", "--max_new_tokens", "30", "--temperature", "1", "--top_k", "9", "--seed", "4"]
    code, stdout, stderr = command("--model", str(run), *options)
    assert code == 0, stderr
    wanted = jaxgpt.generate(jaxgpt.load(run), "cab", max_new_tokens=30, temperature=1.0, top_k=9, seed=4)
    assert stdout == f"cab{wanted}\n"
    assert len(wanted) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    few(
        [
            (["--temperature", "-1"], "error: temperature: found -1.0, expected"),
            (["--top_p", "1.5"], "error: top_p: found 1.5, expected"),
            # Before the model is looked for.
            (["--top_k", "0", "--model", "nowhere"], "error: top_k: found 0, expected"),
            (["--seed", "9" * 20], f"error: seed: found {'9' * 20}, expected an integer from 0, below 2**32"),
            (["--prompt", "a" * 20], "error: prompt 0: found 20 tokens, expected at most 19"),
            (["--prompt", "Z"], "found 'Z' at position 0"),
            (["--model", "nowhere"], "error: model: found neither a folder nor a hub repository nowhere"),
        ],
        3,
    ),
)
def test_a_mistake_is_one_line(run, options, message):
    code, stdout, stderr = command("--model", str(run), "--prompt", "a", *options)
    assert code == 1
    assert stdout == ""
    assert message in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def test_an_unknown_option_gets_the_nearest_name():
    code, _, stderr = command("--model", "x", "--temprature", "1")
    assert code == 2
    assert "--temperature" in stderr


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.1])
def test_a_share_outside_its_range_is_refused(run, top_p):
    with pytest.raises(ValueError, match=rf"top_p: found {top_p}, expected"):
        jaxgpt.generate(jaxgpt.load(run), "a", max_new_tokens=1, temperature=1.0, top_p=top_p)


def test_prompts_that_do_not_fit_the_model_are_refused_with_numbers(run):
    model = jaxgpt.load(run)
    with pytest.raises(ValueError, match="prompt 1: found 20 tokens, expected at most 19"):
        jaxgpt.generate(model, ["a", "b" * 20], max_new_tokens=1)
    with pytest.raises(ValueError, match="prompt 0: found 20 tokens, expected at most 19"):
        generate_tokens(model.params, [[1] * 20], CFG, max_new_tokens=1)
    for token in (23, -1):
        with pytest.raises(ValueError, match=rf"token id: found {token}, expected 0\.\.22"):
            generate_tokens(model.params, [[1, token]], CFG, max_new_tokens=1)


SENTENCE = "the cat sat on the mat . the dog sat ."
WORDPIECE = wordpiece.train([SENTENCE] * 3, 60)
ENCODER = replace(CFG, architecture="encoder", vocab_size=WORDPIECE.vocab_size, norm_position="post")
BPE = BPETokenizer.train([SENTENCE] * 3, 270)
BOTH = replace(CFG, architecture="encoder-decoder", vocab_size=270, context_length=40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"encoder" or "encoder-decoder": the run directory of a model that was never trained}."""
    folders = {}
    for cfg, tokenizer, objective in ((ENCODER, WORDPIECE, "masked_lm"), (BOTH, BPE, "seq2seq")):
        folder = folders[cfg.architecture] = tmp_path_factory.mktemp(cfg.architecture)
        directory.write(folder, TrainConfig(objective=objective, model=cfg), tokenizer, Settings())
        with Checkpoints(folder / directory.CHECKPOINTS) as checkpoints:
            state = TrainState(jnp.array(1), draw(declarations(cfg)), {"count": jnp.zeros(())}, jax.random.key(0))
            checkpoints.save(state, "text", {}, 1.0)
            checkpoints.wait()
    return folders


@pytest.fixture
def say(monkeypatch, capsys):
    """The same command line within this process: what it prints, or the one line it ends with."""

    def run(*argv, stdin=None):
        monkeypatch.setattr(sys, "argv", ["jaxgpt", *map(str, argv)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        ended = None
        try:
            __main__.main()
        except SystemExit as error:
            ended = error.code
        assert ended is None or (isinstance(ended, str) and "\n" not in ended), capsys.readouterr().err
        return ended or capsys.readouterr().out

    return run


def test_fill_mask_prints_tokens_shares_and_texts(runs, say):
    model = jaxgpt.load(runs["encoder"])
    text = "the [MASK] sat on the [MASK] ."
    said = say("fill-mask", "--model", runs["encoder"], "--text", text, "--top_k", 3)
    first, second = said.rstrip("\n").split("\n\n")
    for i, (lines, blank) in enumerate(zip((first, second), jaxgpt.fill_mask(model, text, top_k=3), strict=True), 1):
        head, *rows = lines.split("\n")
        assert head == f"blank {i}"
        for row, one in zip(rows, blank, strict=True):
            assert row.split()[:2] == [one.text, f"{one.probability:.1%}"]
            assert row.endswith(f"  {one.filled}")
        assert len({row.index("%") for row in rows}) == 1  # columns
    one = say("fill-mask", "--model", runs["encoder"], "--text", "the [MASK]")
    assert len(one.splitlines()) == 5
    assert "blank" not in one


@pytest.mark.parametrize(
    ("share", "bar"), [(0.0, " " * 20), (1.0, "█" * 20), (0.5, "█" * 10 + " " * 10), (0.0126, "▎" + " " * 19)]
)
def test_a_bar_is_as_long_as_its_share(share, bar):
    assert __main__._bar(share) == bar


def test_translate_writes_a_line_for_a_line(runs):
    """Through a pipe: empty lines stay, and so does their order whatever the lengths."""
    lines = ["the cat sat on the mat", "", "a dog", "  ", "the dog sat . the cat sat", "on"]
    options = ["--model", str(runs["encoder-decoder"]), "--beam", "1", "--batch_size", "4", "--max_new_tokens", "9"]
    code, stdout, stderr = command(*options, name="translate", stdin="\n".join(lines) + "\n")
    assert code == 0, stderr
    model = jaxgpt.load(runs["encoder-decoder"])
    wanted = [line.strip() and jaxgpt.translate(model, line, beam=1, max_new_tokens=9) for line in lines]
    assert stdout == "".join(f"{' '.join(text.splitlines())}\n" for text in wanted)


class Watched:
    """Standard input that notes what had come out when each line was read."""

    def __init__(self, lines, terminal, out):
        self.lines, self.terminal, self.out, self.before = iter(lines), terminal, out, []

    def isatty(self):
        return self.terminal

    def __iter__(self):
        return self

    def __next__(self):
        self.before.append(self.out.getvalue().decode())
        self.out.truncate(0)
        self.out.seek(0)
        return next(self.lines)


@pytest.mark.parametrize(
    ("terminal", "answers"),
    [(False, ["\n" + 31 * "A\n", "A\nB\n"]), (True, ["\n", *32 * ["A\n"], "B\n"])],
)
def test_translate_answers_batch_by_batch(monkeypatch, terminal, answers):
    calls = []

    def translate(model, texts, **options):
        calls.append((texts, options))
        return [text.strip().upper() for text in texts]

    monkeypatch.setattr(jaxgpt, "load", lambda path: path, raising=False)
    monkeypatch.setattr(jaxgpt, "translate", translate, raising=False)
    monkeypatch.setattr(sys, "argv", ["jaxgpt", "translate", "--model", "m", "--batch_size", "2", "--beam", "3"])
    watched = Watched(["\n", *32 * ["a\n"], "b\n"], terminal, io.BytesIO())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(watched.out))  # holds back what is not flushed, as a pipe does
    monkeypatch.setattr(sys, "stdin", watched)
    __main__.main()
    assert [text for text in watched.before if text] == answers
    defaults = {"length_penalty": 1.0, "max_new_tokens": None, "temperature": 0.0, "seed": 0}
    assert calls[0] == ([], {"beam": 3, "batch_size": 2} | defaults)
    assert [text.strip() for texts, _ in calls for text in texts] == [*32 * ["a"], "b"]


def test_translate_has_the_defaults_of_the_function():
    options = inspect.signature(jaxgpt.translate).parameters
    for name, default in vars(__main__.Translate(model="m")).items():
        if name not in ("model", "texts"):
            assert options[name].default == default, name


def test_translate_takes_texts_as_arguments(runs, say):
    model = jaxgpt.load(runs["encoder-decoder"])
    said = say("translate", "--model", runs["encoder-decoder"], "--beam", 2, "the cat", " ", "a dog sat", stdin="no\n")
    found = jaxgpt.translate(model, ["the cat", "a dog sat"], beam=2)
    first, second = (" ".join(text.splitlines()) for text in found)
    assert said == f"{first}\n\n{second}\n"


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A checkpoint's folder, of a model that was never trained and has a chat template."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    folder = tmp_path_factory.mktemp("talker")
    cfg = replace(SCHEMES["rotary"], n_layers=1, context_length=64, vocab_size=write_tokenizer(folder))
    settings = Settings(generation=GenerationDefaults(banned_tokens=tuple(range(8, 264)), max_new_tokens=8))
    jaxgpt.save(Model(cfg, draw(gpt.declare(cfg)), tokenizers.load(folder), settings), folder)
    return folder


def test_generate_goes_on_with_a_checkpoint_too(talker, say):
    options = ["--max_new_tokens", 9, "--temperature", 1, "--top_p", 0.9, "--stop", "zzz"]
    wanted = jaxgpt.generate(jaxgpt.load(talker), "Hi", max_new_tokens=9, temperature=1, top_p=0.9, stop="zzz")
    assert say("generate", "--model", talker, "--prompt", "Hi", *options) == f"Hi{wanted}\n"


def test_chat_answers_line_by_line(talker, say):
    lines = ["Hi", "", "in", "a" * 60, "he", "on"]
    said = say("chat", "--model", talker, "--system", "Be", "--temperature", 0, stdin="\n".join(lines))
    same = chat.Chat(jaxgpt.load(talker), system="Be", do_sample=False)
    wanted = ["".join(same.ask(line).pieces) for line in lines if 0 < len(line) < 60]
    assert said == "".join(f"{answer}\n" for answer in wanted)


def test_chat_draws_as_it_is_asked(talker, say):
    def drawn(*options):
        return say("chat", "--model", talker, *options, stdin="Hi")

    assert drawn("--seed", 1) == drawn("--seed", 1) != drawn("--seed", 2)
    assert drawn("--top_k", 1) == drawn("--temperature", 0) != drawn("--seed", 1)


@pytest.fixture
def talk(monkeypatch, capsys):
    """Talk(answers): what a terminal shows of a chat whose answers these are, one a line that is typed."""

    def run(lines, answers):
        class Told:
            def __init__(self, model, **options):
                self.answers = iter(answers)

            def ask(self, text):
                return next(self.answers)(text)

        def typed(prompt):
            print(prompt, end="")
            line = next(lines)
            if isinstance(line, BaseException):
                raise line
            return line

        lines = iter([*lines, EOFError()])
        monkeypatch.setattr(jaxgpt, "load", lambda path: path, raising=False)
        monkeypatch.setattr(chat, "Chat", Told)
        monkeypatch.setattr("builtins.input", typed)
        monkeypatch.setattr(sys, "argv", ["jaxgpt", "chat", "--model", "m"])
        __main__.main()
        return capsys.readouterr()

    return run


def test_ctrl_c_stops_the_answer_and_not_the_chat(talk):
    def stopped(text):
        def told():
            yield "wh"
            signal.raise_signal(signal.SIGINT)
            yield "at?"

        return chat.Answer(0, told())

    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        shown = talk(["Hi", "again"], [stopped, lambda text: chat.Answer(2, iter(["he", "llo"]))])
    finally:
        signal.signal(signal.SIGINT, kept)
    assert shown.out == "wh (stopped)\nhello\n"
    assert shown.err == "(2 oldest messages left out: no room for them)\n"


def test_a_line_that_can_not_be_answered_is_one_line_and_the_chat_goes_on(talk):
    def refused(text):
        raise ValueError("message: found 9 tokens")

    shown = talk(["Hi", "  ", "again"], [refused, lambda text: chat.Answer(0, iter([text]))])
    assert (shown.out, shown.err) == ("again\n", "error: message: found 9 tokens\n")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), EOFError()])
def test_ctrl_c_or_the_end_of_input_at_the_prompt_ends_the_chat(talk, monkeypatch, end):
    monkeypatch.setattr(sys, "stdin", Watched([], True, None))
    shown = talk(["Hi", end, "never"], [lambda text: chat.Answer(0, iter(["ho"]))])
    assert (shown.out, shown.err) == ("> ho\n> \n", "")


CROSS = "cross attention (each row chooses the token after it)"


def test_attention_draws_what_it_is_asked_for(runs, say, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    drawn = []

    def draw_attention(seen, path, **options):
        drawn.append((seen.keys[-1], len(seen.queries), options))
        draw_it(seen, path, **options)

    draw_it = pictures.draw_attention
    monkeypatch.setattr(pictures, "draw_attention", draw_attention)
    one = {"layer": -1, "heads": "all", "title": "self attention"}
    assert say("attention", "--model", runs["encoder"], "--text", "the [MASK]") == "attention.png\n"
    assert drawn.pop() == ("[SEP]", 4, one)
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")

    two = ("attention", "--model", runs["encoder-decoder"], "--text", "the cat", "--target", "a")
    assert say(*two, "--out", "two.png", "--mean") == "two.png\n"
    assert drawn.pop() == ("<|endoftext|>", 2, one | {"heads": "mean", "title": CROSS})
    say(*two, "--kind", "decoder", "--layer", 0, "--heads", 1, 0)
    assert drawn.pop() == ("a", 2, {"layer": 0, "heads": (1, 0), "title": "decoder attention"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.png", "two.png"]


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("encoder", ["fill-mask", "--text", "the cat"], "text 0: found 'the cat', expected [MASK] in it"),
        ("encoder", ["fill-mask", "--text", "[MASK]", "--top_k", "0"], "top_k: found 0, expected"),
        ("encoder-decoder", ["fill-mask", "--text", "[MASK]"], "model.architecture: found 'encoder-decoder', expected"),
        ("encoder-decoder", ["translate", "--beam", "0"], "beam: found 0, expected"),
        ("encoder-decoder", ["translate", "x " * 60], "text 0: found"),
        ("encoder", ["translate", "a"], "found 'encoder', expected an encoder-decoder"),
        ("encoder", ["chat"], "tokenizer: found 'json', expected one with a chat template"),
        ("encoder", ["attention", "--text", "a", "--target", "b"], "target: found 'b', expected None"),
        ("encoder", ["attention", "--text", "a", "--kind", "cross"], "kind: found 'cross', expected one of self"),
        ("encoder", ["attention", "--text", "a", "--layer", "1"], "layer: found 1, expected -1..0"),
        ("encoder", ["attention", "--text", "a", "--heads", "0", "--mean"], "heads: found [0], expected none"),
        ("encoder", ["attention", "--text", "a", "--out", "no/such/a.png"], "No such file or directory"),
        ("encoder", ["attention", "--text", "a", "--out", "a.pdf"], "path: found 'a.pdf', expected a name that ends"),
    ],
)
def test_a_mistake_of_the_others_is_one_line_too(runs, say, architecture, options, message):
    found = say(options[0], "--model", runs[architecture], *options[1:])
    assert found.startswith("error: ")
    assert message in found


def test_a_line_that_can_not_be_translated_is_placed(runs, say):
    lines = ["a\n", *15 * ["\n"], "b\n", "x " * 60 + "\n", "c\n"]
    options = ["--beam", "1", "--batch_size", "1", "--max_new_tokens", "4"]
    found = say("translate", "--model", runs["encoder-decoder"], *options, stdin="".join(lines))
    assert found.startswith("error: lines 17 to 19: text 1: found ")

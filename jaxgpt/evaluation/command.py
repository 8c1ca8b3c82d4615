"""python -m jaxgpt evaluate: what can be measured, each from a file; a table, and JSON for programs.

Every measure has `read`, which refuses a bad file or number before a model is read, and `measure`, whose numbers have
names; a name may stand for a table, {row: {column: number}}.
"""

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxgpt.checks import require


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: perplexity, nats a token, bits per byte."""

    data: str
    """A text file, a .jsonl file (field "text", each line a text), either as .gz, a folder or a glob."""
    context_length: int | None = None
    """Tokens that a window reads (None: as many as the model can)."""
    stride: int | None = None
    """Tokens from one window to the next; fewer: more context for each, and slower (None: half of the window)."""
    batch_size: int = 16
    """Windows at once."""

    def read(self) -> list[str]:
        from jaxgpt.data.sources import files, pieces

        for name in ("context_length", "stride", "batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a positive integer")
        if self.stride is not None and self.context_length is not None:
            require(self.stride <= self.context_length, "stride", self.stride, f"1..{self.context_length}")
        texts: dict[int, list[str]] = {}
        for number, piece in pieces(files(self.data, "data")):
            texts.setdefault(number, []).append(piece)
        return ["".join(parts) for parts in texts.values()]

    def measure(self, model: Any, texts: list[str]) -> dict[str, Any]:
        from jaxgpt.evaluation.perplexity import perplexity

        options = {name: value for name, value in vars(self).items() if name != "data"}
        return perplexity(model, texts, **options, progress=True)._asdict()


@dataclass(frozen=True)
class Choices:
    """How often the right one of several texts is the likeliest: few-shot classes, multiple choice."""

    data: str
    """A .csv, .tsv, .jsonl, .json, each perhaps as .gz, or .parquet file of records."""
    template: str
    """How a record is written, its label last: "Review: {text}\\nSentiment: {label}"."""
    label: str = "label"
    """The field of the right choice: its text or, with --choices, perhaps its place, from 0."""
    choices: str | None = None
    """The field of a record's choices, a list of texts (None: the labels of all records)."""
    names: tuple[str, ...] = ()
    """What a prompt calls the labels of the file, in their alphabet's order (none given: as the file does)."""
    shots: int = 0
    """Examples that a prompt begins with."""
    shots_data: str | None = None
    """The file to draw them from (None: from data, whose other records are measured)."""
    separator: str = "\n\n"
    """What stands between two examples."""
    seed: int = 0
    """Of the draw."""

    def read(self) -> tuple[list[str], list[list[str]], list[int]]:
        from jaxgpt.prompting import LABEL

        require(not (self.names and self.choices), "names", list(self.names), "none beside --choices")
        records, shots = _with_shots(self, self._records)
        options = [record["choices"] for record in records]
        if self.choices is None:
            labels = sorted({record[LABEL] for record in [*records, *shots]})
            require(len(labels) > 1, f"{self.data}: {self.label}", labels, "two labels or more")
            names = list(self.names) or labels
            expected = f"{len(labels)}, one for each of {', '.join(labels)}"
            require(len(names) == len(labels), "names", names, expected)
            called = dict(zip(labels, names, strict=True))
            records, shots = ([one | {LABEL: called[one[LABEL]]} for one in some] for some in (records, shots))
            options = [names] * len(records)
        answers = [choices.index(record[LABEL]) for record, choices in zip(records, options, strict=True)]
        return _prompts(self, records, shots), options, answers

    def measure(self, model: Any, inputs: tuple[list[str], list[list[str]], list[int]]) -> dict[str, Any]:
        from jaxgpt.evaluation.choices import choice_accuracy

        return choice_accuracy(model, *inputs, progress=True)._asdict()

    def _records(self, path: str, setting: str) -> list[dict[str, Any]]:
        from jaxgpt.prompting import LABEL

        records = []
        for record, fields in _read_records(self, path, setting, {"choices": self.choices} if self.choices else {}):
            found, choices = record.fields[self.label], None
            if self.choices is not None:
                choices = record.fields[self.choices]
                listed = isinstance(choices, list) and len(choices) > 1 and all(isinstance(x, str) for x in choices)
                require(listed, f"{record.place}: {self.choices}", choices, "a list of two texts or more")
                if isinstance(found, int) and 0 <= found < len(choices):
                    found = choices[found]
                require(found in choices, f"{record.place}: {self.label}", found, f"one of {choices}, or its place")
            else:
                require(
                    isinstance(found, str | int), f"{record.place}: {self.label}", found, "a text or a whole number"
                )
            records.append(fields | {LABEL: str(found).strip() if choices is None else found, "choices": choices})
        return records


@dataclass(frozen=True)
class Classes:
    """How well a model that was trained to tell classes tells them: accuracy, F1, a row for each class."""

    data: str
    """A .csv, .tsv, .jsonl, .json, each perhaps as .gz, or .parquet file of texts with their classes."""
    text: str = "text"
    """The field of the texts."""
    text_pair: str | None = None
    """The field of what is read with each, if there is one."""
    label: str = "label"
    """The field of their classes."""
    batch_size: int = 64
    """Texts at once."""

    def read(self) -> list[Any]:
        from jaxgpt.data.config import DataConfig
        from jaxgpt.data.labelled import read_examples

        require(self.batch_size >= 1, "batch_size", self.batch_size, "a positive integer")
        _need("sklearn", "scikit-learn", "classification")
        config = DataConfig(path=self.data, text=self.text, text_pair=self.text_pair, label=self.label)
        return read_examples(config, self.data, "data")

    def measure(self, model: Any, examples: list[Any]) -> dict[str, Any]:
        from jaxgpt.evaluation.classes import class_scores

        texts = [one.text if one.pair is None else (one.text, one.pair) for one in examples]
        labels = [one.label for one in examples]
        found = class_scores(model, texts, labels, batch_size=self.batch_size, progress=True)
        return found._asdict() | {"classes": {name: one._asdict() for name, one in found.classes.items()}}


@dataclass(frozen=True)
class Generation:
    """How near a model's greedy texts are to the answers asked for: exact match, ROUGE-1, -2 and -L."""

    data: str
    """A .csv, .tsv, .jsonl, .json, each perhaps as .gz, or .parquet file of records."""
    template: str = "{prompt}{label}"
    """How a record is written, its answer, {label}, last. Spaces before that are not part of the prompt."""
    label: str = "answer"
    """The field of the answers."""
    chat: bool = False
    """Ask each prompt as a user's message, by the model's chat template."""
    shots: int = 0
    """Examples that a prompt begins with."""
    shots_data: str | None = None
    """The file to draw them from (None: from data, whose other records are measured)."""
    separator: str = "\n\n"
    """What stands between two examples."""
    seed: int = 0
    """Of the draw."""
    max_new_tokens: int = 128
    """Most tokens of a text."""
    stop: tuple[str, ...] = ()
    """End a text before the first of these strings."""
    batch_size: int = 16
    """Prompts at once."""

    def read(self) -> tuple[list[Any], list[str]]:
        from jaxgpt.prompting import LABEL

        for name in ("max_new_tokens", "batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        require("" not in self.stop, "stop", list(self.stop), "strings of at least one character")
        _need("rouge_score", "rouge-score", "evaluation")
        records, shots = _with_shots(self, self._records)
        prompts: list[Any] = [prompt.rstrip(" ") for prompt in _prompts(self, records, shots)]
        if self.chat:
            prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return prompts, [record[LABEL] for record in records]

    def measure(self, model: Any, inputs: tuple[list[Any], list[str]]) -> dict[str, Any]:
        from jaxgpt.evaluation.answers import answer_scores, answer_texts

        prompts, answers = inputs
        options = {name: getattr(self, name) for name in ("max_new_tokens", "stop", "batch_size")}
        return answer_scores(answer_texts(model, prompts, **options, progress=True), answers)._asdict()

    def _records(self, path: str, setting: str) -> list[dict[str, str]]:
        from jaxgpt.data.tables import field_text
        from jaxgpt.prompting import LABEL

        records = []
        for record, fields in _read_records(self, path, setting, {}):
            answer = field_text(record, self.label)
            require(answer.strip() != "", f"{record.place}: {self.label}", answer, "an answer")
            records.append(fields | {LABEL: answer})
        return records


@dataclass(frozen=True)
class Harness:
    """Tasks of EleutherAI's lm-evaluation-harness."""

    tasks: tuple[str, ...]
    """Their names."""
    include_path: str | None = None
    """A folder of tasks of one's own, as .yaml files, in place of lm-eval's."""
    shots: int | None = None
    """Examples that a prompt begins with (None: as the task says)."""
    limit: int | None = None
    """Measure so many records of each task only."""
    batch_size: int = 16
    """Prompts at once, where text is generated."""

    def read(self) -> Any:
        _need("lm_eval", "lm-eval", "lm-eval")
        from lm_eval.tasks import TaskManager

        require(self.batch_size >= 1, "batch_size", self.batch_size, "a positive integer")
        own = self.include_path
        require(own is None or Path(own).is_dir(), "include_path", own, "a folder")
        manager = TaskManager(include_path=own, include_defaults=own is None)
        for task in self.tasks:
            require(
                task in manager.all_tasks, "tasks", task, "a task of lm-eval (lm-eval ls tasks), or of include_path"
            )
        return manager

    def measure(self, model: Any, manager: Any) -> dict[str, Any]:
        from lm_eval.evaluator import simple_evaluate

        from jaxgpt.evaluation.lm_eval import HarnessModel

        found = simple_evaluate(
            model=HarnessModel(model, batch_size=self.batch_size),
            tasks=list(self.tasks),
            task_manager=manager,
            num_fewshot=self.shots,
            limit=self.limit,
        )
        return {"tasks": {task: _plain(measures) for task, measures in found["results"].items()}}


@tyro.conf.configure(tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class Evaluate:
    """Measure a model: print a table, and write JSON if asked."""

    model: str
    """Run directory, or a checkpoint's folder or repository."""
    measure: (
        Annotated[Perplexity, tyro.conf.subcommand("perplexity")]
        | Annotated[Choices, tyro.conf.subcommand("choices")]
        | Annotated[Classes, tyro.conf.subcommand("classes")]
        | Annotated[Generation, tyro.conf.subcommand("generation")]
        | Annotated[Harness, tyro.conf.subcommand("lm-eval")]
    )
    """What to measure."""
    out: str | None = None
    """A file for the numbers and how they came about, as JSON."""

    def run(self) -> None:
        if self.out is not None:
            require(not Path(self.out).is_dir(), "out", self.out, "a file's name, not a folder's")
        inputs = self.measure.read()
        import jaxgpt

        results = self.measure.measure(jaxgpt.load(self.model), inputs)
        _print(results)
        if self.out is not None:
            from jaxgpt.tokenizers.base import write_whole

            kind = type(self.measure).__name__.lower()
            told = {"model": self.model, "measure": kind, "settings": asdict(self.measure), "results": results}
            write_whole(Path(self.out), json.dumps(told, indent=2) + "\n")


def _need(module: str, package: str, extra: str) -> None:
    if find_spec(module) is None:
        raise ImportError(f"to measure this needs {package}: pip install 'jaxgpt[{extra}]'")


def _read_records(
    command: Choices | Generation, path: str, setting: str, more: dict[str, str]
) -> list[tuple[Any, dict]]:
    """Each record of a file, and its texts that the template asks for."""
    from jaxgpt.data.tables import field_text, read_table, table_file
    from jaxgpt.prompting import template_fields

    names = template_fields(command.template)[:-1]
    columns = {f"template: {name}": name for name in names} | more | {"label": command.label}
    records = list(read_table(table_file(path, setting), columns))
    require(len(records) > 0, setting, path, "a file with some records")
    return [(record, {name: field_text(record, name) for name in names}) for record in records]


def _with_shots(command: Choices | Generation, read: Any) -> tuple[list[dict], list[dict]]:
    """The records to measure, and the examples that their prompts begin with."""
    from jaxgpt.prompting import choose_shots

    records = read(command.data, "data")
    pool = records if command.shots_data is None else read(command.shots_data, "shots_data")
    shots = choose_shots(pool, command.shots, seed=command.seed)
    kept = [record for record in records if not any(record is shot for shot in shots)]
    require(len(kept) > 0, "shots", command.shots, f"fewer than the {len(records)} records of {command.data}")
    return kept, shots


def _prompts(command: Choices | Generation, records: list[dict], shots: list[dict]) -> list[str]:
    from jaxgpt.prompting import few_shot

    return [few_shot(command.template, record, shots, separator=command.separator) for record in records]


def _plain(measures: dict[str, Any]) -> dict[str, Any]:
    """Of lm-eval's, those that are numbers: {"acc,none": 0.5} is {"acc": 0.5}."""
    numbers = {name: value for name, value in measures.items() if isinstance(value, int | float)}
    return {name.removesuffix(",none"): value for name, value in numbers.items()}


def _print(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    plain = {name: value for name, value in results.items() if not isinstance(value, dict)}
    if plain:
        table = Table("measure", "value", box=None)
        table.columns[1].justify = "right"
        for name, value in plain.items():
            table.add_row(name, _number(value))
        console.print(table, markup=False)
    for kind, rows in results.items():
        if isinstance(rows, dict):
            columns = list(dict.fromkeys(name for row in rows.values() for name in row))
            table = Table(kind, *columns, box=None)
            for column in table.columns[1:]:
                column.justify = "right"
            for name, row in rows.items():
                table.add_row(name, *(_number(row[column]) if column in row else "" for column in columns))
            console.print(table, markup=False)


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

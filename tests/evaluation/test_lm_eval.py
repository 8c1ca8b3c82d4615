"""jaxgpt under lm-eval gives what lm-eval's own `hf` model gives on the same checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from decoder_peers import GPT2, fill
from phi3 import write_tokenizer
from tiny import TINY

import jaxgpt
from jaxgpt import tokenizers
from jaxgpt.model import Model

pytest.importorskip("lm_eval")
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = "Once upon a time there was a girl named Lily. She loved to play outside in the park, with her red ball. "


def write_gpt2(folder):
    """A checkpoint whose tokenizer adds nothing to a text, and whose end of text begins one too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT], trainer)
    size, end = tokenizer.get_vocab_size(), "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, model_max_length=48
    ).save_pretrained(folder)
    values = GPT2 | {"vocab_size": size, "n_positions": 48, "bos_token_id": 0, "eos_token_id": 0}
    fill(transformers.GPT2LMHeadModel(transformers.GPT2Config(**values))).save_pretrained(folder)


EACH = pytest.mark.parametrize("both", ["gpt2", "stories"], indirect=True)
SLOWER = pytest.mark.parametrize("both", ["gpt2", pytest.param("stories", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module")
def both(request, tmp_path_factory):
    from lm_eval.models.huggingface import HFLM

    from jaxgpt.evaluation.lm_eval import HarnessModel

    if request.param == "stories":
        folder = request.getfixturevalue("shared_data") / "stories260K"
    else:
        folder = tmp_path_factory.mktemp("gpt2")
        write_gpt2(folder)
    # Its cache gives the wrong tokens' logits where two requests are one text, cut at two places (0.4.13).
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, logits_cache=False)
    return HarnessModel(jaxgpt.load(folder), batch_size=3), theirs


def ask(model, kind, *arguments):
    from lm_eval.api.instance import Instance

    requests = [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]
    return getattr(model, kind)(requests, disable_tqdm=True)


@EACH
def test_log_likelihoods(both):
    ours, theirs = both
    begin = theirs.tokenizer.decode(theirs.prefix_token_id)
    end = theirs.tokenizer.decode(theirs.eot_token_id)
    pairs = [
        ("Once upon a time", " there was a girl"),
        ("Once upon a time ", "there was a girl"),  # the space goes with what follows it
        ("Once upon a time\n\n", "there"),
        ("", "Once upon a time"),  # after the start token
        ("", f"{begin}Once"),  # which then is not read twice
        (f"{begin}Once upon", " a time"),
        (f"Once{end}upon", f" a{end} time"),  # special tokens are read as such
        ("Lily", "."),
        (TEXT * 12, " The end."),  # cut at its left
        ("Once", TEXT[:60]),
        ("Once upon a time,", " there was a little girl named Lily."),
    ]
    found, wanted = ask(ours, "loglikelihood", *pairs), ask(theirs, "loglikelihood", *pairs)
    np.testing.assert_allclose([nats for nats, _ in found], [nats for nats, _ in wanted], rtol=2e-6, atol=2e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


@EACH
def test_those_of_whole_texts(both):
    texts = [("Once",), (TEXT,), (TEXT * 20,), (TEXT[:37] * 9,)]
    found, wanted = (ask(model, "loglikelihood_rolling", *texts) for model in both)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@SLOWER
def test_generated_texts(both):
    prompts = ["Once upon a time", TEXT * 12, "Lily", "The park"]
    several = [{"until": ["."], "max_gen_toks": 20}, {"until": ["\n\n", "she"], "max_gen_toks": 20, "do_sample": False}]
    several += [{"until": [], "max_new_tokens": 20, "repetition_penalty": 1.3}]
    requests = [(prompt, options) for options in several for prompt in prompts]
    found, wanted = (ask(model, "generate_until", *requests) for model in both)
    assert found == wanted
    assert any(text.strip() for text in found)


@EACH
def test_ids_and_lengths(both):
    ours, theirs = both
    for name in ("eot_token_id", "prefix_token_id", "max_length"):
        assert getattr(ours, name) == getattr(theirs, name)
    for text in ("", TEXT, "a  b\n", "<s>a", "a</s>b", "<|endoftext|>a<|endoftext|>"):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text, add_special_tokens=False) == theirs.tok_encode(text, add_special_tokens=False)


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
CHOICE = (
    TASK
    + """
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
)
ROLLING = (
    TASK
    + """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
)
SAID = (
    TASK
    + """
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""
)


@SLOWER
def test_tasks_defined_by_local_files(both, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [
        {"text": "Once upon a", "choices": [" time", " park", " red ball"], "label": 0},
        {"text": "Lily loved to play", "choices": [" time", " outside in the park"], "label": 1},
        {"text": "She had a big, red", "choices": [" ball", " time", " was"], "label": 0},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, form in (("choice", CHOICE), ("rolling", ROLLING), ("said", SAID)):
        (tmp_path / f"{name}.yaml").write_text(form.format(name=f"jaxgpt_{name}", data=data))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tasks = ["jaxgpt_choice", "jaxgpt_rolling", "jaxgpt_said"]
    found, wanted = (
        simple_evaluate(model=model, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0)
        for model in both
    )
    for task in tasks:
        for name, value in wanted["results"][task].items():
            if isinstance(value, float):
                np.testing.assert_allclose(found["results"][task][name], value, rtol=2e-6)
        for one, other in zip(found["samples"][task], wanted["samples"][task], strict=True):
            assert str(one["arguments"]) == str(other["arguments"])
    assert 0 < wanted["results"]["jaxgpt_rolling"]["bits_per_byte,none"] < 20


def test_the_command_runs_tasks_of_a_folder(tmp_path, monkeypatch):
    from jaxgpt.evaluation.command import Harness
    from jaxgpt.evaluation.lm_eval import HarnessModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    (tmp_path / "rolling.yaml").write_text(ROLLING.format(name="jaxgpt_own", data=tmp_path / "rows.jsonl"))
    write_gpt2(tmp_path / "model")
    model = jaxgpt.load(tmp_path / "model")
    command = Harness(tasks=("jaxgpt_own",), include_path=str(tmp_path))
    found = command.measure(model, command.read())["tasks"]["jaxgpt_own"]
    (nats,) = ask(HarnessModel(model), "loglikelihood_rolling", (TEXT,))
    np.testing.assert_allclose(found["bits_per_byte"], -nats / np.log(2) / len(TEXT), rtol=1e-6)
    with pytest.raises(ValueError, match="tasks: found 'jaxgpt_none', expected a task of lm-eval"):
        Harness(tasks=("jaxgpt_none",), include_path=str(tmp_path)).read()
    with pytest.raises(ValueError, match="include_path: found 'no', expected a folder"):
        Harness(tasks=("jaxgpt_own",), include_path="no").read()


def test_chats_are_written_by_the_model_s_template(tmp_path):
    from jaxgpt.evaluation.lm_eval import HarnessModel

    size = write_tokenizer(tmp_path)
    cfg = replace(TINY, vocab_size=size)
    ours = HarnessModel(Model(cfg, {}, tokenizers.load(tmp_path)), name="a/b")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    for more in (True, False):
        wanted = theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=more)
        assert ours.apply_chat_template(said, add_generation_prompt=more) == wanted
    assert ours.chat_template(True) == theirs.chat_template
    assert ours.chat_template(False) is None
    assert ours.tokenizer_name == "a__b"
    with pytest.raises(ValueError, match=r"model\.architecture: found 'encoder', expected decoder"):
        HarnessModel(Model(replace(cfg, architecture="encoder"), {}, ours.model.tokenizer))

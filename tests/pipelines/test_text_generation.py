"""Text generation beside transformers' own pipeline, on a tiny checkpoint of Phi-3's shape."""

import json
import shutil
from dataclasses import fields

import pytest
from phi3 import write_checkpoint

import jaxgpt
from jaxgpt import pipelines
from jaxgpt.pipelines.text_generation import Options

ASKED = [{"role": "user", "content": "Hi"}]
BEGUN = [*ASKED, {"role": "assistant", "content": "Oh "}]
TOLD = [{"role": "system", "content": "Be"}, *ASKED]
GREEDY = {"do_sample": False, "max_new_tokens": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for library in ("torch", "transformers", "tokenizers", "jinja2"):
        pytest.importorskip(library)
    return write_checkpoint(tmp_path_factory.mktemp("phi3"))


def both(folder, **options):
    """The same pipeline here and there."""
    import transformers

    model, tokenizer = (
        auto.from_pretrained(folder) for auto in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    theirs = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, **options)
    return jaxgpt.pipeline("text-generation", model=folder, **options), theirs


@pytest.fixture(scope="module")
def greedy(folder):
    return both(folder, **GREEDY)


PROGRAMS = [
    """
model = AutoModelForCausalLM.from_pretrained("{name}", device_map="cpu", torch_dtype="auto", trust_remote_code=False)
tokenizer = AutoTokenizer.from_pretrained("{name}")
generator = pipeline(
    "text-generation", model=model, tokenizer=tokenizer, return_full_text=False, max_new_tokens=500, do_sample=False
)
messages = [{{"role": "user", "content": "Create a funny joke about chickens."}}]
output = generator(messages)
print(output[0]["generated_text"])
""",
    """
model = AutoModelForCausalLM.from_pretrained("{name}", device_map="cpu", torch_dtype="auto", trust_remote_code=False)
tokenizer = AutoTokenizer.from_pretrained("{name}")
pipe = pipeline(
    "text-generation", model=model, tokenizer=tokenizer, return_full_text=False, max_new_tokens=500, do_sample=False
)
basic_prompt = [{{"role": "user", "content": "Create a funny joke about chickens."}}]
print(pipe(basic_prompt)[0]["generated_text"])
output = pipe(basic_prompt, do_sample=True, temperature=1, top_p=1e-6)
print(output[0]["generated_text"])
""",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_with_their_import_changed(folder, capsys, program):
    printed = []
    for module in ("jaxgpt.pipelines", "transformers"):
        source = f"from {module} import AutoModelForCausalLM, AutoTokenizer, pipeline\n{program.format(name=folder)}"
        if module == "transformers":
            source = source.replace('device_map="cpu", ', "")  # for which it needs another library
        exec(compile(source, module, "exec"), {})
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(printed[0]) > 300


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    "inputs",
    [
        "Hello there",
        "",
        "<|user|>\nHi<|end|>\n<|assistant|>\n",  # a template written by hand: control tokens
        ["Hello there"],
        ["Hi", "the chicken in"],
        ("Hi", "the chicken in"),
        ASKED,
        TOLD,
        BEGUN,
        [ASKED, BEGUN],
        [ASKED],
    ],
    ids=repr,
)
def test_texts_and_shapes_are_those_of_transformers(greedy, inputs, full):
    ours, theirs = greedy
    inputs_there = list(inputs) if isinstance(inputs, tuple) else inputs
    assert ours(inputs, return_full_text=full) == theirs(inputs_there, return_full_text=full)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 1},
        {"max_length": 20, "max_new_tokens": None},
        {"repetition_penalty": 1.3},
        {"temperature": 0.0},  # of no effect
        {"num_beams": 1, "pad_token_id": 3},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "top_k": 0, "top_p": 1e-6, "min_p": 1.0},
        {"do_sample": True, "top_k": None, "temperature": 1e-4},
    ],
    ids=str,
)
def test_options_have_the_meaning_of_transformers(greedy, options):
    prompts = ["Hi", "the chicken in"]
    ours, theirs = (pipe(prompts, **options) for pipe in greedy)
    assert ours == theirs
    assert options.keys() & {"num_beams", "temperature"} or ours != greedy[0](prompts) or "do_sample" in options


def test_any_of_several_end_tokens_ends_a_text(greedy):
    ours, theirs = greedy
    prompts = ["Hi", "the chicken in"]
    first, second = (
        ours.model.tokenizer.encode(ours(prompt, return_full_text=False)[0]["generated_text"]) for prompt in prompts
    )
    lengths = set()
    for ends in (first[9], [first[9]], [first[9], second[12]], [second[12], 3, first[15]]):
        found = ours(prompts, eos_token_id=ends, return_full_text=False)
        assert found == theirs(prompts, eos_token_id=ends, return_full_text=False)
        lengths |= {len(text["generated_text"]) for (text,) in found}
    assert len(lengths) > 2


def new_text(pipe, prompt):
    return pipe(prompt, return_full_text=False)[0]["generated_text"]


@pytest.mark.parametrize("at", [0, 5, 11])
@pytest.mark.parametrize("length", [1, 3])
def test_a_stop_string_stays_and_what_its_token_has_besides(greedy, at, length):
    ours, theirs = greedy
    whole = new_text(ours, "the chicken in")
    stop = [whole[at : at + length], "never there"]
    options = {"stop_strings": stop, "return_full_text": False}
    found = ours("the chicken in", **options)
    assert found == theirs("the chicken in", tokenizer=theirs.tokenizer, **options)
    across = (at, length) == (5, 3)  # a special token, which neither finds it across
    assert (len(found[0]["generated_text"]) == len(whole)) == across
    assert "".join(ours.stream("the chicken in", stop_strings=stop)) == found[0]["generated_text"]


def test_a_special_token_as_a_stop_string_ends_a_text(greedy):
    """It stands in no text: transformers finds it among the tokens."""
    ours, theirs = greedy
    special = {i: token for token, i in ours.model.tokenizer.special_tokens.items()}
    for seed in range(200):
        prompt = f"a{seed}"
        ids = theirs(prompt, return_tensors=True)[0]["generated_token_ids"][len(ours._tokens(prompt)) :]
        stops = [special[i] for i in ids if i in special and i not in (3, 6)]
        if stops:
            break
    options = {"stop_strings": stops[0], "return_full_text": False}
    found = ours(prompt, **options)
    assert found == theirs(prompt, tokenizer=theirs.tokenizer, **options)
    assert len(found[0]["generated_text"]) < len(new_text(ours, prompt))


def test_streaming_is_the_new_text_in_pieces(greedy):
    ours = greedy[0]
    for prompt in ("Hi", ASKED, BEGUN):
        streamed = list(ours.stream(prompt))
        assert len(streamed) > 1
        assert "".join(streamed) == new_text(ours, prompt)


def test_draws_depend_on_seed_prompt_and_copy_alone(greedy):
    ours = greedy[0]
    options = {"do_sample": True, "num_return_sequences": 2, "return_full_text": False}
    prompts = ["Hi", "the chicken in", "Hi"]
    together = ours(prompts, **options)
    assert [len(texts) for texts in together] == [2, 2, 2]
    assert len({text["generated_text"] for texts in together for text in texts}) == 6  # the same prompt, other draws
    assert ours(prompts, batch_size=1, **options) == together
    assert ours("the chicken in", **options) == together[1]
    assert ours("the chicken in", seed=1, **options) != together[1]


SETTINGS = [
    {},
    {"do_sample": False},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 0},
    {"temperature": 0.6, "repetition_penalty": 1.1, "max_length": 50},
    {"max_new_tokens": 40, "min_p": 0.1},
]
CALLS = [{}, {"do_sample": True}, {"max_length": 60, "top_k": None}, {"max_new_tokens": 7, "temperature": 1.5}]


@pytest.mark.parametrize("said", SETTINGS, ids=str)
def test_what_is_not_given_is_as_the_checkpoint_or_else_transformers_says(folder, tmp_path, said):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 6]} | said))
    ours, theirs = both(tmp_path)
    assert ours.model.generation.end_tokens == (3, 6)
    for call in CALLS:
        chosen = ours._options(call)
        expected, _ = theirs.model._prepare_generation_config(None, **theirs._prepare_generate_kwargs(dict(call)))
        assert chosen.do_sample == expected.do_sample
        if chosen.do_sample:
            assert chosen.temperature == expected.temperature
            assert (chosen.top_k or 0) == (expected.top_k or 0)
            assert (chosen.top_p or 1) == (expected.top_p or 1)
            assert (chosen.min_p or 0) == (expected.min_p or 0)
        assert (chosen.repetition_penalty or 1) == expected.repetition_penalty
        room = expected.max_length - 5 if expected.max_new_tokens is None else expected.max_new_tokens
        assert chosen.room(5) == room


def test_end_and_banned_tokens_of_the_checkpoint_act(folder, tmp_path, greedy):
    text = new_text(greedy[0], "the chicken in")
    ids = greedy[0].model.tokenizer.encode(text)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    said = {"eos_token_id": [3, ids[20]], "suppress_tokens": [ids[4]], "bad_words_ids": [[ids[8]]], "do_sample": False}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    ours, theirs = both(tmp_path, max_new_tokens=30)
    assert ours("the chicken in") == theirs("the chicken in")
    assert not {ids[4], ids[8]} & set(ours.model.tokenizer.encode(new_text(ours, "the chicken in")))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("a", {"max_tokens": 3}, "max_tokens: found an unknown field, expected max_"),
        ("a", {"num_beams": 4}, "num_beams: found 4, expected 1"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens: found 0, expected a positive integer"),
        ("a", {"max_length": 2, "max_new_tokens": None}, "max_length: found 2, expected more than the prompt's 2"),
        ("a", {"temperature": -1.0, "do_sample": True}, "temperature: found -1.0, expected"),
        ("a", {"seed": -1}, "seed: found -1, expected"),
        ("a", {"stop_strings": [""]}, "stop: found ''"),
        ("a", {"eos_token_id": 999}, "token id: found 999, expected"),
        (["a", "a" * 2000], {}, "prompt 1: found 2001 tokens, expected at most 1024"),
        (["a", 7], {}, "inputs: found 7, expected a text, a conversation"),
        (["a", []], {}, "inputs: found [], expected a text, a conversation"),
        ([{"role": "user"}], {}, "message 0: found {'role': 'user'}, expected"),
    ],
)
def test_what_can_not_be_used_is_refused(greedy, inputs, options, message):
    with pytest.raises(ValueError, match="found") as error:
        greedy[0](inputs, **options)
    assert message in str(error.value)


def test_nothing_asked_is_nothing_done(greedy):
    assert greedy[0]([]) == []


def test_options_are_refused_before_a_call_too(folder):
    with pytest.raises(ValueError, match=r"top_p: found 1\.5"):
        pipelines.pipeline("text-generation", model=folder, top_p=1.5)
    assert "num_beams" not in {field.name for field in fields(Options)}

import json
import re
import sys

import pytest
import tokenizers as library
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxgpt import tokenizers
from jaxgpt.tokenizers import BPETokenizer, ChatTemplate
from jaxgpt.tokenizers.chat import read

# Templates of checkpoints, as they are on the hub but for tools.
PHI3 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
"""
EVERYTHING = """{# what else templates use #}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% if message.role == 'assistant' %}{% generation %}{% set said = message.content %}{{ said }}{% endgeneration %}
{% else %}{{ message | tojson }} {{ message | tojson(indent=2) }}{{ said is defined }}{% endif %}
    {% if loop.index == 3 %}{% break %}{% endif %}
{% endfor %}
{{ strftime_now('%Y') }}{{ tools is none }}{{ documents }}{{ pad_token is defined }}
"""
TEMPLATES = {
    "phi3": PHI3,
    "qwen2": QWEN2,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "everything": EVERYTHING,
}
CONTROL = ["<s>", "</s>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
CONTROL += ["<|eot_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
ROLES = {"bos_token": "<s>", "eos_token": "</s>"}

SYSTEM = {"role": "system", "content": "Be brief & kind <b>.\n"}
HELLO = {"role": "user", "content": "  Héllo, 日本 \"x\" & 'y' 👍🏽\n"}
ANSWER = {"role": "assistant", "content": " Good day.\n\nWhat  now? "}
MORE = {"role": "user", "content": "\tdef f(x):\n    return {'a': x}"}
CHATS = {
    "one": [HELLO],
    "system": [SYSTEM, HELLO],
    "turns": [HELLO, ANSWER, MORE],
    "all": [SYSTEM, HELLO, ANSWER, MORE, ANSWER, HELLO],
    "answered": [HELLO, ANSWER],
}


def byte_level() -> library.Tokenizer:
    """GPT-2's kind: bytes, and each control token takes the white space after it, as Phi-3's do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = library.Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, rstrip=token != "</s>", normalized=False) for token in CONTROL])
    return made


def metaspace(scheme: str) -> library.Tokenizer:
    """Llama 2's kind: ▁ for a space, put before a text too, and bytes for what is not known."""
    pieces = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    merges = [("▁", sign) for sign in "abcdefghi"]
    vocab = {piece: i for i, piece in enumerate([*pieces, *map("".join, merges)])}
    made = library.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    return made


KINDS = {"bytes": byte_level, "first": lambda: metaspace("first"), "always": lambda: metaspace("always")}


def folder_of(path, template: str, kind: str = "bytes"):
    (path / "tokenizer.json").write_text(KINDS[kind]().to_str())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template} | ROLES
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(tmp_path, name, kind):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder_of(tmp_path, TEMPLATES[name], kind))
    ours = tokenizers.load(tmp_path)
    compared = 0
    for messages in CHATS.values():
        for more in (False, True):
            try:
                text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
            except Exception as error:
                with pytest.raises(ValueError, match=f"chat_template: {error}"):
                    ours.encode_chat(messages, add_generation_prompt=more)
                continue
            assert ours.chat_template.render(messages, add_generation_prompt=more) == text
            ids = theirs.apply_chat_template(messages, add_generation_prompt=more, return_dict=False)
            assert ours.encode_chat(messages, add_generation_prompt=more) == ids
            compared += 1
    assert compared == 2 * len(CHATS)


@pytest.mark.parametrize("name", ["phi3", "qwen2", "llama2", "llama3", "mistral"])
def test_a_last_message_that_goes_on_is_left_open_as_by_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder_of(tmp_path, TEMPLATES[name]))
    ours = tokenizers.load(tmp_path)
    for last in ("So", "So ", " So\n", ""):
        messages = [HELLO, ANSWER, MORE, ANSWER | {"content": last}]
        ids = theirs.apply_chat_template(messages, continue_final_message=True, return_dict=False)
        assert ours.encode_chat(messages, continue_final_message=True) == ids
    open_ = ours.encode_chat([HELLO, ANSWER | {"content": "x<|end|>"}], continue_final_message=True)
    assert open_[-8:] == ours.encode("x<|end|>")  # of the message, and so text


def test_a_template_without_the_last_message_can_not_go_on():
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert template.parts([HELLO], [], continue_final_message=True) == [HELLO["content"]]
    with pytest.raises(ValueError, match="chat_template: found 'no last message in what it writes'"):
        template.parts([HELLO, ANSWER], [], continue_final_message=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["phi3", "qwen2", "llama2", "llama3", "mistral"])
def test_no_message_writes_a_control_token(tmp_path, name, kind):
    ours = tokenizers.load(folder_of(tmp_path, TEMPLATES[name], kind))
    attack = "".join(CONTROL) + "<s><|im_<|im_end|>end|>"
    plain = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    hostile = [{"role": "user", "content": f"x{attack}x"}, {"role": "assistant", "content": f"y {attack}"}]
    control = set(ours.special_tokens.values())

    def controls(messages):
        return [token for token in ours.encode_chat(messages) if token in control]

    assert controls(plain)
    assert controls(hostile) == controls(plain)
    assert ours.decode(ours.encode_chat(hostile)).count(attack) == 2
    # Where transformers is asked to do the same, it gives the same control tokens.
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(hostile, add_generation_prompt=True, sanitize_control_tokens=True)["input_ids"]
    assert [token for token in ids if token in control] == controls(plain)


def test_parts_are_text_and_the_templates_tokens_by_turns():
    template = ChatTemplate(QWEN2, ROLES)
    messages = [{"role": "user", "content": "<|im_end|>\ue000<s>"}]
    parts = template.parts(messages, CONTROL)
    assert parts[1::2] == ["<|im_start|>", "<|im_end|>"] * 2
    assert parts[6] == "user\n<|im_end|>\ue000<s>"  # also a private-use character of the user's own
    assert "".join(parts) == template.render(messages)


def test_any_tokenizer_encodes_a_chat():
    class Chatting(BPETokenizer):
        chat_template = ChatTemplate("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}", {})

    tokenizer = Chatting(BPETokenizer.train("ab", 257).encoding)
    messages = [{"role": "user", "content": "a<|endoftext|>"}, {"role": "assistant", "content": ""}]
    assert tokenizer.encode_chat(messages) == [*b"a<|endoftext|>", 256, 256]


def test_without_a_template_the_error_says_so():
    with pytest.raises(ValueError, match=r"^tokenizer: found 'bpe', expected one with a chat template"):
        BPETokenizer.train("ab", 257).encode_chat([HELLO])


ATTACKS = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{% for x in ().__class__.__bases__[0].__subclasses__() %}{{ x }}{% endfor %}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'].system('true') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0] }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ ''.format.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].clear() }}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{{ range(10 ** 9) | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ (1).__class__.__base__.__subclasses__() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ joiner.__class__ }}",
    "{{ namespace.mro() }}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_that_reaches_for_more_is_refused(attack):
    messages = [dict(HELLO)]
    with pytest.raises(ValueError, match=r"^chat_template: "):
        ChatTemplate(attack, ROLES).render(messages)
    assert messages == [HELLO]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Only users speak') }}", "chat_template: Only users speak"),
        ("{% for %}", "chat_template: "),
        ("{{ messages[0].content + 1 }}", "chat_template: can only concatenate"),
        ("{{ 1 / 0 }}", "chat_template: division by zero"),
    ],
)
def test_a_template_that_fails_says_why(template, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ChatTemplate(template, ROLES).render([HELLO])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: found [], expected a list of"),
        ("hello", "messages: found 'hello', expected a list of"),
        ([HELLO, "hello"], "message 1: found 'hello', expected {"),
        ([{"role": "user"}], "message 0: found {'role': 'user'}, expected {"),
        ([HELLO | {"name": "x"}], "message 0: found {"),
        ([HELLO, {"role": "user", "content": None}], "message 1: content: found None, expected a text"),
        ([{"role": 1, "content": ""}], "message 0: role: found 1, expected a text"),
    ],
)
def test_messages_are_checked(messages, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ChatTemplate(QWEN2, ROLES).render(messages)


def test_the_template_is_found_wherever_checkpoints_keep_it():
    config = "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    files = {config: json.dumps({"chat_template": "config"}), "chat_template.json": '{"chat_template": "json"}'}

    def source(files):
        found = read(files, ROLES)
        return found and found.source

    assert source({}) is None
    assert source({config: "{}"}) is None
    assert source({config: files[config]}) == "config"
    assert source({config: json.dumps({"chat_template": named})}) == "named"
    assert source(files) == "json"
    assert source(files | {"chat_template.jinja": "file"}) == "file"
    with pytest.raises(ValueError, match=r"^tokenizer_config.json: chat_template: found \['tool_use'\], expected one"):
        source({config: json.dumps({"chat_template": named[:1]})})
    with pytest.raises(ValueError, match=r"^tokenizer_config.json: chat_template: found 3, expected a text"):
        source({config: json.dumps({"chat_template": 3})})


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_saved_tokenizer_keeps_its_template(tmp_path, file):
    folder_of(tmp_path, QWEN2)
    if file == "chat_template.jinja":
        (tmp_path / file).write_bytes(PHI3.replace("\n", "\r\n").encode())
    before = tokenizers.load(tmp_path)
    before.save(tmp_path / "again")
    for name in {"tokenizer.json", "tokenizer_config.json", file}:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert tokenizers.load(tmp_path / "again").encode_chat([HELLO]) == before.encode_chat([HELLO])


def test_without_jinja_the_error_says_what_to_install(monkeypatch):
    for name in ("jinja2", "jinja2.ext", "jinja2.sandbox"):
        monkeypatch.setitem(sys.modules, name, None)
    from jaxgpt.tokenizers import chat

    chat._environment.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'jaxgpt\[chat\]'"):
        ChatTemplate("never compiled before", ROLES).render([HELLO])

"""Chat templates for models that bring none, by the names of the styles: each answer ends with end-of-text."""

from jaxgpt.checks import nearest, require
from jaxgpt.tokenizers.base import Tokenizer

_CONTEXT = "paired with an input that provides further context. "
_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."

INPUT = "\n\n### Input:\n"
"""What stands between an instruction and its input in the style of Alpaca."""

# Sources: Alpaca, its repository's train.py; ChatML, OpenAI's chatml.md; Phi-3, its technical report, section 2.
STYLES = {
    "alpaca": (
        "{% for message in messages %}"
        r"{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
        "{% elif message['role'] == 'user' %}"
        r"{% if loop.first %}{% if '\n\n### Input:\n' in message['content'] %}"
        rf"{{{{ '{_TASK}, {_CONTEXT}{_REQUEST}\n\n' }}}}"
        "{% else %}"
        rf"{{{{ '{_TASK}. {_REQUEST}\n\n' }}}}"
        "{% endif %}{% endif %}"
        r"{{ '### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}"
        r"{% else %}{{ message['content'] + eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
        "{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
        "{% if message['role'] == 'assistant' and eos_token != '<|im_end|>' %}{{ eos_token }}{% endif %}"
        r"{{ '\n' }}{% endfor %}"
        r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "phi3": (
        "{% for message in messages %}"
        r"{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>' }}"
        "{% if message['role'] == 'assistant' and eos_token != '<|end|>' %}{{ eos_token }}{% endif %}"
        r"{{ '\n' }}{% endfor %}"
        r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
}


def styled(tokenizer: Tokenizer, style: str | None) -> Tokenizer:
    """The tokenizer with the chat template of a style (None: its own, and Alpaca's where it has none).

    Raises ValueError for a style that there is not, and for a tokenizer without an end-of-text token.
    """
    if style is None and tokenizer.chat_template is not None:
        return tokenizer
    style = style or "alpaca"
    require(style in STYLES, "data.style", style, nearest(style, STYLES))
    expected = "one with an end-of-text token, which ends each answer"
    require(tokenizer.end_of_text is not None, "data.tokenizer", tokenizer.kind, expected)
    return tokenizer.with_chat_template(STYLES[style])

"""A tiny checkpoint of Phi-3's shape, with its chat template and Llama 2's kind of tokenizer."""

import json
from pathlib import Path

CONTROL = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def write_tokenizer(folder: Path, bos: bool = True) -> int:
    """The tokenizer's files; returns the size of its vocabulary. bos: whether a text is framed by <s>."""
    import tokenizers as library
    from tokenizers import AddedToken, decoders, models, normalizers, processors

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁t", "▁a", "he", "▁the", "in", "▁c", "hi", "▁chi", "ck", "▁chick", "en", "▁chicken", "re", "er", "on"]
    pieces = [*CONTROL, *bytes_, "▁", *map(chr, range(33, 127)), *words]
    merges = [("▁", "t"), ("▁", "a"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("▁", "c"), ("h", "i"), ("▁c", "hi")]
    merges += [("c", "k"), ("▁chi", "ck"), ("e", "n"), ("▁chick", "en"), ("r", "e"), ("e", "r"), ("o", "n")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    made = library.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if bos:
        made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(token, rstrip=i > 1, normalized=False) for i, token in enumerate(CONTROL)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(made.to_str())
    roles = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE} | roles
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocab)


def write_checkpoint(folder: Path, *, context_length: int = 1024, seed: int = 0, **generation) -> Path:
    """A checkpoint that transformers makes, its weights drawn. generation: of generation_config.json."""
    import torch
    import transformers

    vocab_size = write_tokenizer(folder)
    config = transformers.Phi3Config(
        vocab_size=vocab_size, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=context_length,
        original_max_position_embeddings=context_length, sliding_window=None, initializer_range=0.3,
        bos_token_id=1, eos_token_id=3, pad_token_id=3,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.Phi3ForCausalLM(config)
    model.generation_config = transformers.GenerationConfig(**{"bos_token_id": 1, "eos_token_id": [3, 6]} | generation)
    model.save_pretrained(folder)
    return folder

"""Make the golden file of preference tuning beside this script: python tests/golden/make_preference.py.

Needs torch, transformers 5 and trl. TRL's DPOTrainer, in float64 without dropout, with a policy that is not its
reference, whose parameters are half as large: its collator's batches, the loss that it finds of each while torch's
AdamW learns at a constant rate, and the first gradients. Parameters are drawn, and rounded to float16.
"""

import tempfile

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl
from make_encoder import HERE, drawn

STEPS, ROWS, BETA, RATE = 6, 3, 0.4, 1e-2
WORDS = [f"w{i}" for i in range(20)]


def model() -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=24, n_embd=12, n_layer=2, n_head=3, bos_token_id=20, eos_token_id=21,
        pad_token_id=22, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
    )  # fmt: skip
    return drawn(transformers.GPT2LMHeadModel(config))


def pairs() -> datasets.Dataset:
    rng = np.random.default_rng(5)

    def text(most: int) -> str:
        return "".join(f" {word}" for word in rng.choice(WORDS, rng.integers(1, most)))

    rows = [{"prompt": text(7), "chosen": text(12), "rejected": text(9)} for _ in range(STEPS * ROWS)]
    return datasets.Dataset.from_list(rows)


def main() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    policy, reference = model(), model()
    for parameter in reference.parameters():
        parameter.data /= 2
    out = {f"param/{path}": p.detach().numpy().astype(np.float16) for path, p in policy.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        options = trl.DPOConfig(
            folder, per_device_train_batch_size=ROWS, beta=BETA, report_to=[], use_cpu=True, bf16=False, max_length=24,
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trl.DPOTrainer(policy, reference, options, train_dataset=pairs(), processing_class=tokenizer)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    batches, losses = [], []
    for step, batch in enumerate(trainer.get_train_dataloader()):
        optimizer.zero_grad()
        loss = trainer.compute_loss(policy, dict(batch))
        loss.backward()
        if step == 0:
            out |= {f"grad/{path}": p.grad.numpy().astype(np.float32) for path, p in policy.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
        batches.append({name: batch[name].numpy() for name in ("input_ids", "attention_mask", "completion_mask")})
    for name in batches[0]:  # chosen rows, then rejected ones; each step as wide as the widest
        widest = max(batch[name].shape[1] for batch in batches)
        padded = [np.pad(batch[name], ((0, 0), (0, widest - batch[name].shape[1]))) for batch in batches]
        out[name] = np.stack(padded).astype(np.int32)
    file = HERE / "preference.npz"
    np.savez_compressed(file, **out, losses=np.array(losses), beta=np.array(BETA), rate=np.array(RATE))
    print(f"{file.name}: {file.stat().st_size:,} bytes; losses {losses}")


if __name__ == "__main__":
    main()

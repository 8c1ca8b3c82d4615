"""Make the golden files of classification fine-tuning beside this script: python tests/golden/make_classification.py.

Needs torch and transformers 5. One epoch of 32 drawn texts, four at a step, as torch learns it in float64 without
dropout: AdamW at a constant rate, gradients clipped to a norm of 1, matrices and embeddings decayed. Of each model:
its parameters at first (rounded to float16), the batches, the first gradients and every step's loss. 90 KB together.
"""

import numpy as np
import torch
import transformers
from make_encoder import HERE, bert_config, drawn, padded

STEPS, ROWS, CLASSES = 8, 4, 3
RATE, DECAY = 1e-2, 0.3  # large, so that a wrong update shows in the next losses


def gpt2() -> torch.nn.Module:
    config = transformers.GPT2Config(
        vocab_size=29,
        n_positions=11,
        n_embd=12,
        n_layer=2,
        n_head=3,
        pad_token_id=28,
        bos_token_id=None,
        eos_token_id=None,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    return transformers.GPT2ForSequenceClassification(config)


def bert() -> torch.nn.Module:
    return transformers.BertForSequenceClassification(bert_config(29, 12, 2, 3, 17, 11, num_labels=CLASSES))


def epoch() -> dict[str, np.ndarray]:
    """Texts of 1 to 11 tokens. Padding is 28, nothing else is: GPT-2 finds a text's last token by the id alone."""
    lengths = np.random.default_rng(7).integers(1, 12, (STEPS, ROWS))
    lengths[:, 0] = 11
    texts = [padded(row.tolist(), 28, seed=step) for step, row in enumerate(lengths)]
    inputs, mask = (np.stack(arrays) for arrays in zip(*texts, strict=True))
    labels = np.random.default_rng(8).integers(0, CLASSES, (STEPS, ROWS))
    return {"inputs": np.where(mask, inputs, 28), "mask": mask, "labels": labels}


def learn(name: str, model: torch.nn.Module) -> None:
    model = drawn(model).eval()  # without dropout
    decays = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decays, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), eps=1e-8)
    out = epoch()
    out |= {f"param/{path}": p.detach().numpy().astype(np.float16) for path, p in model.named_parameters()}
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(
            input_ids=torch.tensor(out["inputs"][step]),
            attention_mask=torch.tensor(out["mask"][step].astype(int)),
            labels=torch.tensor(out["labels"][step]),
        ).loss
        loss.backward()
        if step == 0:
            out |= {f"grad/{path}": p.grad.numpy().astype(np.float32) for path, p in model.named_parameters()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    file = HERE / f"{name}.npz"
    np.savez_compressed(file, **out, losses=np.array(losses), norms=np.array(norms))
    print(f"{file.name}: {file.stat().st_size:,} bytes; losses {losses[0]:.3f} ... {losses[-1]:.3f}; norms {norms}")


if __name__ == "__main__":
    learn("classification_bert", bert())
    learn("classification_gpt2", gpt2())

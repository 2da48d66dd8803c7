"""A two-layer GPT-2 trained on the device in bfloat16, and with FP8 and MX8S products over float32 parameters.

    python scripts/train_low_precision.py [STEPS]

Prints the loss curves side by side. Text: CPython's own documentation, one byte a token.
"""

from __future__ import annotations

import sys
from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import mtia
from mtia.quantization.training import train_in

BATCH, LENGTH, CHIP = 4, 64, "mtia400"


def batches(steps: int) -> list[torch.Tensor]:
    data = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    random = torch.Generator().manual_seed(0)
    starts = torch.randint(0, len(data) - LENGTH, (steps, BATCH), generator=random)
    return [torch.tensor([list(data[s : s + LENGTH]) for s in row.tolist()]) for row in starts]


def curve(products: str, steps: int) -> list[float]:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    model = GPT2LMHeadModel(config)
    if products == "bf16":
        model = model.bfloat16()
    else:
        model = train_in(model, products)
    model = model.to("mtia")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for tokens in batches(steps):
        moved = tokens.to("mtia")
        loss = model(moved, labels=moved).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with mtia.use(CHIP):
        curves = {name: curve(name, steps) for name in ("bf16", "fp8", "mx8s")}
        print("step " + "".join(f"{name:>8}" for name in curves))
        for i in range(steps):
            print(f"{i:4d} " + "".join(f"{losses[i]:8.3f}" for losses in curves.values()))
        print("host fallbacks:", mtia.host_fallbacks() or "none")


if __name__ == "__main__":
    main()

"""Models trained on the device in bfloat16, and with FP8 and MX8S products over float32 parameters: loss curves.

    python scripts/train_low_precision.py gpt2 [STEPS]     two layers, CPython's own documentation, one byte a token
    python scripts/train_low_precision.py dlrm [STEPS]     DLRM on MovieLens-100k; the AUC of ratings kept apart too

GPT-2's parameters are bfloat16 in the first run; DLRM's are float32 in every run, bfloat16 by autocast.
"""

from __future__ import annotations

import sys
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import mtia
from mtia.quantization.training import train_in
from mtia.training.optimizers import RowwiseAdagrad
from mtia.training.tasks import RatingTask

BATCH, LENGTH, CHIP = 4, 64, "mtia400"
PRODUCTS = ("bf16", "fp8", "mx8s")
STEPS = {"gpt2": 12, "dlrm": 10}


def batches(steps: int) -> list[torch.Tensor]:
    data = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    random = torch.Generator().manual_seed(0)
    starts = torch.randint(0, len(data) - LENGTH, (steps, BATCH), generator=random)
    return [torch.tensor([list(data[s : s + LENGTH]) for s in row.tolist()]) for row in starts]


def gpt2(products: str, steps: int) -> tuple[list[float], str]:
    """Losses, and a word on the end."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    model = GPT2LMHeadModel(config)
    model = (model.bfloat16() if products == "bf16" else train_in(model, products)).to("mtia")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for tokens in batches(steps):
        moved = tokens.to("mtia")
        loss = model(moved, labels=moved).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, ""


def dlrm(products: str, steps: int) -> tuple[list[float], str]:
    """Losses, and the test AUC; tables are float32 and updated row by row in every run, the MLPs by Adagrad."""
    task = RatingTask(0)
    torch.manual_seed(0)
    model = task.model()
    if products != "bf16":
        model = train_in(model, products)
    model = model.to("mtia")
    tables = [p for name, p in model.named_parameters() if name.startswith("embeddings.")]
    dense = [p for name, p in model.named_parameters() if not name.startswith("embeddings.")]
    optimizers = [RowwiseAdagrad(tables, task.learning_rate["rowwise-adagrad"]),
                  torch.optim.Adagrad(dense, task.learning_rate["adagrad"])]  # fmt: skip
    order = task.samples[torch.randperm(len(task.samples), generator=torch.Generator().manual_seed(0))]
    losses = []
    for step in range(steps):
        *features, labels = (t.to("mtia") for t in task.inputs(order[step * task.batch :][: task.batch]))
        with torch.autocast("mtia", torch.bfloat16, enabled=products == "bf16"):
            logits = model(*features)
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses, f"test AUC {task.evaluate(model, 'mtia')['test_auc']:.4f}"


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "gpt2"
    if name not in STEPS:
        sys.exit(f"unknown model {name!r}; known: {', '.join(STEPS)}")
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS[name]
    run = {"gpt2": gpt2, "dlrm": dlrm}[name]
    with mtia.use(CHIP):
        curves = {products: run(products, steps) for products in PRODUCTS}
        print("step " + "".join(f"{products:>8}" for products in curves))
        for i in range(steps):
            print(f"{i:4d} " + "".join(f"{losses[i]:8.3f}" for losses, _ in curves.values()))
        for products, (_, end) in curves.items():
            if end:
                print(f"{products}: {end}")
        print("host fallbacks:", mtia.host_fallbacks() or "none")


if __name__ == "__main__":
    main()

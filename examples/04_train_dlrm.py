"""Train a recommendation model on MovieLens-100k: tables, dot interaction, MLPs; what a step's time is made of."""

import torch

import mtia
from mtia.training import movielens
from mtia.training.dlrm import DLRM
from mtia.training.optimizers import RowwiseAdagrad
from mtia.training.parts import PartMeter

data = movielens.load()
train, _ = data.split(seed=0)
torch.manual_seed(0)
model = DLRM(data.rows, len(movielens.DENSE)).to("mtia")
tables = RowwiseAdagrad(model.embeddings.parameters(), lr=0.05)
dense = torch.optim.SGD([p for name, p in model.named_parameters() if not name.startswith("embeddings")], lr=0.1)
PARTS = ("embeddings", "bottom", "interaction", "top")  # modules whose kernels are counted apart
meter = PartMeter(model, lambda name, module: name if name in PARTS else None)

for step in range(3):
    with meter.step():
        batch = data.batch(train[step * 512 : (step + 1) * 512]).to("mtia")
        meter.phase("loss")
        logits = model(batch.dense, batch.indices, batch.offsets)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        meter.phase("backward")
        loss.backward()
        meter.phase("optimizers")
        for optimizer in (tables, dense):  # the tables' update is one kernel that touches the rows that were hit
            optimizer.step()
            optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")

for name, part in meter.steps[-1].parts.items():
    name = name or "copy of inputs"
    print(f"{name:20} {part.n_calls:3} launches {part.time_s * 1e6:8.2f} us {part.energy_j * 1e3:8.3f} mJ")
print("operators on the host:", mtia.host_fallbacks())

"""torch.compile on `device="mtia"`: Inductor writes Triton kernels, the simulated chip runs them."""

import torch
from torch import nn

import mtia

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)).eval()
x = torch.randn(64, 512)
with torch.no_grad():
    expected = model(x)
    compiled = torch.compile(model.to("mtia"), fullgraph=True)
    result = compiled(x.to("mtia"))

error = (result.cpu() - expected).abs().max().item()
assert error < 1e-4, error
print("largest difference from the CPU is below 1e-4")
print(f"host fallbacks: {sum(mtia.host_fallbacks().values())}")

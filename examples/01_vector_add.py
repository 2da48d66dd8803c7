"""A Triton kernel, as written for any device, on a simulated MTIA chip: values and simulated time."""

import torch
import triton
import triton.language as tl

import mtia


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, x + y, mask=mask)


n = 1_000_003
x = torch.arange(n, dtype=torch.float32, device="mtia")
y = torch.full((n,), 0.5, device="mtia")
out = torch.empty_like(x)

with mtia.use("mtia300"):
    start, end = torch.mtia.Event(enable_timing=True), torch.mtia.Event(enable_timing=True)
    start.record()
    add_kernel[(triton.cdiv(n, 4096),)](x, y, out, n, BLOCK=4096)
    end.record()
    torch.mtia.synchronize()

assert torch.equal(out.cpu(), torch.arange(n, dtype=torch.float32) + 0.5)
print(f"{n:,} sums are right; host fallbacks: {sum(mtia.host_fallbacks().values())}")
print(f"simulated time on mtia300: {start.elapsed_time(end) * 1e3:.1f} us")

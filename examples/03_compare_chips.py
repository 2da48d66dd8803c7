"""One matrix multiply on every generation: timing only, no values (a chip's name is all that changes)."""

import torch

import mtia
from mtia import chips, knobs
from mtia.host_runtime import record

for name in ("mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500"):
    with mtia.use(name), knobs.scope(values=False):
        a = torch.empty(4096, 4096, dtype=torch.float16, device="mtia")
        with record.session() as log:
            a @ a
            torch.mtia.synchronize()
        (kernel,) = log.spans
        time_s = kernel.duration_fs * 1e-15
        peak = chips.load(name).peak_flop_per_s("fp16")
        rate = 2 * 4096**3 / time_s
        print(f"{name}: {time_s * 1e6:8.1f} us  {rate / 1e12:7.1f} TFLOP/s  {100 * rate / peak:4.0f} % of peak")

"""`import torch` alone gives the device, costs little and never fails."""

import json
import os
import subprocess
import sys

import pytest


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("MTIA_")}, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)


def test_import_torch_is_enough():
    done = python("import torch; print(torch.ones(2, device='mtia') + 1)")
    assert done.stdout == "tensor([2., 2.], device='mtia:0')\n", done.stderr


def test_import_torch_loads_no_heavy_modules_and_no_chip():
    heavy = [
        "triton",
        "transformers",
        "torch._inductor",
        "torch._dynamo.device_interface",
        "mtia.chips.loader",
        "mtia.host_runtime.hooks",
        "mtia.kernels",
    ]
    code = f"import sys, torch, json; assert torch.mtia.is_available(); print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    done = python(code)
    assert json.loads(done.stdout) == [], done.stderr


def test_the_device_adds_little_to_import_torch():
    """A share of the import of torch in the same process, so that a busy machine slows both."""
    code = (
        "import time, sys; t0 = time.process_time(); import torch; t1 = time.process_time();"
        "from mtia.host_runtime.torch_mtia.autoload import load; load(); t2 = time.process_time();"
        "assert torch.mtia.is_available(); print((t2 - t1) / (t1 - t0))"
    )
    done = python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert float(done.stdout) < 0.1, done.stderr


def test_import_mtia_does_not_import_torch():
    done = python("import sys, mtia; assert 'torch' not in sys.modules; mtia.chip(); print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_device_count_comes_from_the_environment():
    code = "import torch; print(torch.mtia.device_count(), torch.ones(1, device='mtia:2').device)"
    assert python(code, MTIA_DEVICE_COUNT="3").stdout == "3 mtia:2\n"


def test_two_devices_copy_between_each_other_and_keep_their_own_memory():
    code = """
import torch, mtia
x = torch.arange(6.0, device="mtia:0").reshape(2, 3)
y = x.t().to("mtia:1", torch.float64)
assert y.device.index == 1 and torch.equal(y.cpu(), x.cpu().t().double())
assert torch.mtia.memory_allocated(1) == 512
with torch.mtia.device(1):
    assert torch.empty(1, device="mtia").device.index == 1
with mtia.session() as log:
    torch.empty(1000, device="mtia:1").copy_(torch.empty(1000, device="mtia:0"))
print([s.name for s in log.spans if s.device == 1])
"""
    done = python(code, MTIA_DEVICE_COUNT="2")
    assert done.stdout == "['peer copy']\n", done.stderr


def test_a_bad_setting_warns_and_torch_still_imports():
    done = python("import torch; print(torch.ones(1), torch.mtia.is_available())", MTIA_DEVICE_COUNT="many")
    assert done.returncode == 0
    assert "could not set up device 'mtia'" in done.stderr and "MTIA_DEVICE_COUNT" in done.stderr
    assert done.stdout.startswith("tensor([1.])")


def test_unknown_chip_is_named_on_first_use():
    done = python("import torch; torch.ones(1, device='mtia')", MTIA_CHIP="mtia4000")
    assert done.returncode != 0
    assert "unknown chip 'mtia4000'" in done.stderr and "Did you mean 'mtia400'" in done.stderr


@pytest.mark.parametrize("module", ["dynamic_library", "acc_flags"])
def test_modules_that_inductor_imports(module):
    done = python(f"import mtia.host_runtime.torch_mtia.{module} as m; print(m.__name__)")
    assert done.returncode == 0, done.stderr


def test_a_process_may_end_right_after_a_backward_pass():
    """With the interpreter's lock kept until the end, as a busy machine keeps it: half of such processes aborted."""
    code = (
        "import sys, torch; x = torch.ones(8, device='mtia', requires_grad=True); y = (x * x).sum();"
        "sys.setswitchinterval(30); torch.autograd.grad(y, x)"
    )
    for _ in range(3):
        done = python(code)
        assert done.returncode == 0, done.stderr

"""The runner of PyTorch's generic databases: cases are found and held, a wrong device fails, the page counts."""

import os
import subprocess
import sys

import pytest
import torch

from mtia.conformance import device_class, generic
from mtia.conformance.generic import FAMILIES, Case, markdown

ONE_OF_EACH = [
    ("modules", "nn.Linear"), ("modules", "nn.LazyConv1d"), ("modules", "nn.BatchNorm1d eval"),
    ("optimizers", "AdamW foreach"), ("optimizers", "SGD for loop"), ("autocast", "torch_fp16 mm"),
    ("autocast", "nn_fp16 linear"), ("operators", "custom NumpySortCustomOp"),
]  # fmt: skip


def outcome(family, name):
    check = dict(FAMILIES[family]())[name]
    return generic._run_case(family, name, check)


@pytest.mark.parametrize(("family", "name"), ONE_OF_EACH)
def test_a_case_of_each_family_passes(family, name):
    case = outcome(family, name)
    assert case.outcome == "pass", case.error


def test_inputs_that_the_cpu_refuses_are_counted_and_a_case_of_nothing_else_is_skipped():
    def check(inputs, *, compared):
        inputs.compared += compared
        for _ in range(2):
            inputs.leave_out(generic.REFUSED)

    some = generic._run_case("modules", "some", lambda inputs: check(inputs, compared=1))
    none = generic._run_case("modules", "none", lambda inputs: check(inputs, compared=0))
    assert (some.outcome, some.compared, some.left_out) == ("pass", 1, {"the CPU refuses it": 2})
    assert (none.outcome, none.error) == ("skip", "nothing to compare in 2 inputs: 2 the CPU refuses it")


def test_a_wrong_device_fails(monkeypatch):
    original = generic._to_device
    monkeypatch.setattr(generic, "_to_device", lambda value: generic.tree_map(_off_by_a_little, original(value)))
    case = outcome("modules", "nn.Linear")
    assert case.outcome == "fail" and "not close" in case.error


def _off_by_a_little(x):
    return x * 1.001 if isinstance(x, torch.Tensor) else x


def test_every_family_has_cases():
    assert all(sum(1 for _ in cases()) > 20 for cases in FAMILIES.values())


def test_the_page_counts_and_names_failures():
    cases = [
        Case("modules", "nn.A", "pass", "", 7, {"the CPU refuses it": 3, "no call": 1}),
        Case("modules", "nn.B", "fail", "no | way"),
        Case("autocast", "c", "skip"),
    ]
    page = markdown(cases)
    assert "| modules | 1 | 1 | 0 | 50.0 % | 7 | 3 | 1 |" in page and "- modules: `nn.B`: no / way" in page


def test_upstreams_machinery_instantiates_its_tests_for_the_device(tmp_path):
    file = tmp_path / "test_upstream.py"
    file.write_text(UPSTREAM)
    environment = {**os.environ, "TORCH_TEST_DEVICES": device_class.__file__}
    environment.pop("CI", None)  # there upstream reports through a package of its own
    done = subprocess.run([sys.executable, str(file), "-v"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("test_add_mtia_float32", "test_add_mtia_bfloat16", "test_relu_mtia"):
        assert f"{name} (__main__.TestGenericMTIA" in done.stderr


UPSTREAM = """
import torch
from torch.testing._internal.common_device_type import dtypes, instantiate_device_type_tests
from torch.testing._internal.common_utils import TestCase, run_tests

class TestGeneric(TestCase):
    @dtypes(torch.float32, torch.bfloat16)
    def test_add(self, device, dtype):
        x = torch.ones(3, device=device, dtype=dtype)
        self.assertEqual((x + x).tolist(), [2.0] * 3)
        self.assertEqual(x.device.type, "mtia")

    def test_relu(self, device):
        self.assertEqual(torch.relu(torch.tensor([-1.0, 1.0], device=device)).cpu(), torch.tensor([0.0, 1.0]))

instantiate_device_type_tests(TestGeneric, globals(), only_for="mtia")
run_tests()
"""


def test_aotinductor_is_refused_by_upstream_where_the_page_says():
    from torch._inductor.codegen.common import DeviceOpOverrides
    from torch._inductor.codegen.mtia.device_op_overrides import MTIADeviceOpOverrides

    assert MTIADeviceOpOverrides.kernel_driver is DeviceOpOverrides.kernel_driver, "upstream has it now: try it"
    with pytest.raises(NotImplementedError):
        MTIADeviceOpOverrides().kernel_driver()
    assert "kernel_driver" in generic.SURFACE

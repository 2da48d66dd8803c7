"""What torch and Inductor read about the chip, and the patches of stock PyTorch."""

import pickle
from typing import Any

import pytest
import torch

import mtia
from mtia import chips
from mtia.host_runtime.properties import properties


@pytest.mark.parametrize("name", [n for n in chips.names() if n.startswith("mtia")])
def test_attributes_and_keys_agree_on_every_generation(name):
    spec = chips.load(name)
    p = properties(spec)
    assert p.multi_processor_count == p["multi_processor_count"] == spec.grid.n_pes
    assert p.total_memory == spec.dram.capacity_bytes
    assert p.warp_size == 32  # 1 trips Inductor's reduction splitting


def test_properties_through_torch():
    p: Any = torch.mtia.get_device_properties()
    assert p.name == mtia.chip().title
    assert torch.mtia.get_device_capability() == (mtia.chip().info.generation, 0)
    assert pickle.loads(pickle.dumps(p)) == p
    with pytest.raises(AttributeError, match="no device property 'cores'"):
        _ = p.cores
    assert torch.accelerator.current_accelerator() == torch.device("mtia")


def test_inductor_allocates_through_the_patched_function():
    guards: Any = torch._C._dynamo.guards  # type: ignore[attr-defined]
    x = guards._empty_strided_mtia((3, 4), (4, 1), torch.bfloat16)
    assert (x.device.type, x.shape, x.stride(), x.dtype) == ("mtia", (3, 4), (4, 1), torch.bfloat16)


def test_dynamo_gets_the_raw_stream():
    from torch._dynamo.device_interface import get_interface_for_device

    assert get_interface_for_device("mtia").get_raw_stream(0) == 0
    side = torch.mtia.Stream()
    with torch.mtia.stream(side):
        assert get_interface_for_device("mtia").get_raw_stream(0) == side.stream_id


def test_flex_attention_accepts_the_device():
    from torch.nn.attention import flex_attention

    q = torch.zeros(1, 1, 16, 16, device="mtia")
    flex_attention._validate_device(q, q, q)


def test_fused_cross_entropy_sums_in_float32():
    """As on the CPU: the loss is the exact one, rounded to bfloat16 once."""
    from torch import nn
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(5)
    x, w = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((6, 8), (16, 8)))
    target = torch.arange(6)
    exact = F.cross_entropy(x.double() @ w.double().T, target)
    got = F.linear_cross_entropy(x.to("mtia"), w.to("mtia"), target.to("mtia"), options=nn.LinearCrossEntropyOptions())
    assert abs(float(got) - float(exact)) <= float(exact) * 2**-8

"""The device class that upstream's `instantiate_device_type_tests` asks for.

    TORCH_TEST_DEVICES=$(python -m mtia.conformance.device_class) python pytorch/test/test_view_ops.py

runs a test file of PyTorch's with its `...MTIA` classes. (The files are in PyTorch's repository, not in its wheel; the
machinery executes this file and takes `TEST_CLASS` from it.)
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.testing._internal.common_device_type import DeviceTypeTestBase


class MTIATestBase(DeviceTypeTestBase):
    """Tests of one device type, on its first device."""

    device_type = "mtia"
    primary_device: ClassVar[str] = "mtia:0"

    @classmethod
    def get_primary_device(cls) -> str:
        return cls.primary_device

    @classmethod
    def get_all_devices(cls) -> list[str]:
        others = [f"mtia:{i}" for i in range(torch.mtia.device_count())]
        return [cls.primary_device, *(device for device in others if device != cls.primary_device)]

    @classmethod
    def setUpClass(cls) -> None:
        torch.mtia.init()


TEST_CLASS = MTIATestBase

if __name__ == "__main__":
    print(__file__)

"""What upstream's tests import on MTIA, as they call it."""

from __future__ import annotations

import unittest

import torch
from triton.runtime import driver

from mtia.re.re_unittest_lib import MTIAUnittest
from triton_mtia.python.mtia.eager import mtia_triton_launcher


def test_the_set_up_of_a_class_that_is_not_ours():
    class Theirs(unittest.TestCase):
        @classmethod
        def setUpClass(cls) -> None:
            MTIAUnittest.setUpClass.__func__(cls)  # type: ignore[attr-defined]

    Theirs.setUpClass()
    assert torch.mtia.is_initialized()


def test_the_launcher_finds_our_driver():
    mtia_triton_launcher.init()
    target = driver.active.get_current_target()
    assert target is not None and target.backend == "mtia"

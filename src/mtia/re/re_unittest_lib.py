"""The base class that upstream's tests (Helion's among them) call on MTIA before any test of a class runs."""

from __future__ import annotations

import unittest

import torch


class MTIAUnittest(unittest.TestCase):
    """`setUpClass` makes the device ready; it is called with test classes that do not derive from this one too."""

    @classmethod
    def setUpClass(cls) -> None:
        torch.mtia.init()


__all__ = ["MTIAUnittest"]

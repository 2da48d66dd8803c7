"""Device tests start with clean counters; the chip and knobs are as they were at the end."""

import pytest
import torch

from mtia.host_runtime import fallback, silicon

WITHOUT_DEVICE = ("test_clock", "test_autoload")


@pytest.fixture(autouse=True)
def clean_counters(request):
    if request.path.stem in WITHOUT_DEVICE:
        yield
        return
    torch.mtia.init()
    fallback.reset()
    before = silicon.chip()
    yield
    if silicon.chip() is not before:
        silicon.use(before)

"""tl.device_print says what a GPU's would, element by element."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def say(x_ptr, HEX: tl.constexpr, N: tl.constexpr):
    tl.device_print("x", tl.load(x_ptr + tl.arange(0, N)), hex=HEX)


@triton.jit
def say_more(x_ptr):
    rows, columns = tl.arange(0, 2), tl.arange(0, 16)
    x = tl.load(x_ptr + rows[:, None] * 16 + columns[None, :])
    tl.device_print("", x, x + 1)
    tl.device_print("done")
    print("scalar", tl.load(x_ptr))


def printed(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().out.splitlines() if line]


@pytest.mark.parametrize(
    ("values", "hex", "said"),
    [
        (torch.tensor([-3, 7], dtype=torch.int32), False, ["-3", "7"]),
        (torch.tensor([-3, 7], dtype=torch.int16), True, ["0xfffd", "0x0007"]),
        (torch.tensor([200, 7], dtype=torch.uint8), False, ["200", "7"]),
        (torch.tensor([1.5, -0.0]), False, ["1.500000", "-0.000000"]),
        (torch.tensor([1.5, 2.0], dtype=torch.float16), True, ["0x1.8000000000000p+0", "0x1.0000000000000p+1"]),
    ],
)
def test_elements_in_their_type(values: torch.Tensor, hex: bool, said: list[str], capfd):
    say[(1,)](values.to("mtia"), HEX=hex, N=2)
    assert printed(capfd) == [f"pid (0, 0, 0) idx ({i}) x: {text}" for i, text in enumerate(said)]


def test_tiles_operands_scalars_and_text(capfd):
    say_more[(1, 2)](torch.arange(32, dtype=torch.int64, device="mtia"))
    lines = printed(capfd)
    for y in range(2):
        assert f"pid (0, {y}, 0) idx (1,  3): (operand 0) 19" in lines
        assert f"pid (0, {y}, 0) idx (0, 15): (operand 1) 16" in lines
        assert lines.count(f"pid (0, {y}, 0) done") == 1
        assert lines.count(f"pid (0, {y}, 0) idx () scalar: 0") == 1
    assert len(lines) == 2 * (2 * 32 + 2)

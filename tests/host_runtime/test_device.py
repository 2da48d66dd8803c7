"""Tensors on the device: creation, views, copies, autograd, storage, serialization."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

DEVICE = "mtia"


def on_device(x: torch.Tensor) -> torch.Tensor:
    moved = x.to(DEVICE)
    assert moved.device == torch.device("mtia:0")
    return moved


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool, torch.float64, torch.complex64],
    ids=str,
)
def test_round_trip_keeps_values_shape_and_dtype(dtype):
    x = torch.arange(24).reshape(2, 3, 4).to(dtype)
    back = on_device(x).cpu()
    assert back.dtype == dtype
    assert torch.equal(back, x)


@pytest.mark.parametrize("view", [
    lambda x: x.permute(2, 0, 1), lambda x: x[1:, :, ::2], lambda x: x.transpose(0, 2)[1], lambda x: x.unfold(2, 2, 1),
    lambda x: x[:, :1].expand(2, 5, 4), lambda x: x.reshape(6, 4), lambda x: x.view(torch.int32), lambda x: x.flatten(),
    lambda x: x.diagonal(0, 1, 2), lambda x: x.as_strided((3, 2), (2, 3), 1),
])  # fmt: skip
def test_views_agree_with_the_cpu_and_share_memory(view):
    x = torch.arange(24.0).reshape(2, 3, 4)
    moved = on_device(x)
    seen = view(moved)
    assert seen.untyped_storage().data_ptr() == moved.untyped_storage().data_ptr()
    assert torch.equal(seen.cpu(), view(x))


def test_writing_through_a_view_writes_the_base():
    x = torch.zeros(4, 4, device=DEVICE)
    x[1:3, ::2].fill_(1)
    expected = torch.zeros(4, 4)
    expected[1:3, ::2] = 1
    assert torch.equal(x.cpu(), expected)


def test_strided_and_casting_copies_both_ways():
    x = torch.randn(5, 7)
    moved = torch.empty(7, 5, device=DEVICE, dtype=torch.bfloat16).t()
    moved.copy_(x)
    assert torch.equal(moved.cpu(), x.bfloat16())
    back = torch.empty(7, 5, dtype=torch.float32).t()
    back.copy_(moved)
    assert torch.equal(back, x.bfloat16().float())


def test_conjugate_views_are_copied_as_values():
    z = torch.randn(3, 2, dtype=torch.complex64)
    moved = on_device(z)
    assert torch.equal(moved.conj().cpu(), z.conj())
    assert torch.equal(moved.conj().clone().cpu(), z.conj())
    assert torch.equal(moved.t().conj().cpu(), z.t().conj())
    assert torch.equal(moved.conj().imag.cpu(), z.conj().imag)


def test_item_printing_and_tolist():
    x = torch.arange(3.0, device=DEVICE)
    assert x[1].item() == 1.0
    assert x.tolist() == [0.0, 1.0, 2.0]
    assert repr(x) == "tensor([0., 1., 2.], device='mtia:0')"


def test_resize_set_and_storage():
    x = torch.arange(4.0, device=DEVICE)
    x.resize_(8)
    assert x.shape == (8,) and torch.equal(x[:4].cpu(), torch.arange(4.0))
    empty = torch.empty(0, device=DEVICE).set_(x)  # type: ignore[arg-type]
    assert empty.data_ptr() == x.data_ptr()
    assert torch.empty(3, device=DEVICE).set_().numel() == 0  # type: ignore[call-overload]
    x.untyped_storage().resize_(0)
    assert x.untyped_storage().nbytes() == 0


def test_out_argument_is_resized():
    out = torch.empty(0, device=DEVICE)
    torch.add(torch.ones(3, device=DEVICE), 1, out=out)
    assert torch.equal(out.cpu(), torch.full((3,), 2.0))


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(24, 8), nn.LayerNorm(8), nn.Linear(8, 2)
    )


def test_autograd_matches_the_cpu():
    model = small_model()
    moved = copy.deepcopy(model).to(DEVICE)
    x = torch.randn(5, 3, 8)
    loss, loss_moved = model(x).square().mean(), moved(x.to(DEVICE)).square().mean()
    loss.backward()
    loss_moved.backward()
    torch.testing.assert_close(loss_moved.cpu(), loss)
    for a, b in zip(moved.parameters(), model.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.cpu(), b.grad)


def test_state_dict_moves_between_devices():
    model = small_model().to(DEVICE)
    other = small_model()
    with torch.no_grad():
        next(other.parameters()).zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(next(other.parameters()), next(model.parameters()).cpu())
    assert next(copy.deepcopy(model).parameters()).device.type == DEVICE


@pytest.mark.parametrize("location", [None, "cpu", "mtia", "mtia:0"])
def test_save_and_load(location):
    x = torch.randn(3, 4)
    moved = on_device(x)
    file = io.BytesIO()
    torch.save({"x": moved, "row": moved[1]}, file)  # torch saves mtia tensors one by one: sharing is not kept
    file.seek(0)
    loaded = torch.load(file, map_location=location)
    assert loaded["x"].device.type == ("cpu" if location == "cpu" else "mtia")
    assert torch.equal(loaded["x"].cpu(), x)
    assert torch.equal(loaded["row"].cpu(), x[1])


def test_cpu_checkpoint_loads_onto_the_device_and_pickle_works():
    x = torch.randn(3)
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    assert torch.load(file, map_location="mtia").device.type == "mtia"
    copied = pickle.loads(pickle.dumps(on_device(x)))
    assert copied.device.type == "mtia" and torch.equal(copied.cpu(), x)


def test_pinned_memory_and_loaders():
    x = torch.randn(10).pin_memory()
    assert x.is_pinned() and not torch.randn(3).is_pinned()
    assert torch.equal(x.to(DEVICE, non_blocking=True).cpu(), x)
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    batches = [b.to(DEVICE).cpu() for (b,) in torch.utils.data.DataLoader(data, batch_size=4, pin_memory=True)]
    assert torch.equal(torch.cat(batches), torch.arange(8.0))


def test_sdpa_and_autocast():
    q = torch.randn(1, 2, 5, 8)
    moved = q.to(DEVICE)
    expected = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    got = nn.functional.scaled_dot_product_attention(moved, moved, moved, is_causal=True)
    torch.testing.assert_close(got.cpu(), expected)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert (moved @ moved.transpose(-1, -2)).dtype == torch.bfloat16


def test_sparse_results_are_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"layout .* cannot live on mtia"):
        torch.eye(3, device=DEVICE).to_sparse()

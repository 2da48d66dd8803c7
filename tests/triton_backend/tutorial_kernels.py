"""The kernels that Triton's tutorials 01, 02, 03, 05 and 06 teach, written anew."""

import triton
import triton.language as tl


@triton.jit
def vector_add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=inside) + tl.load(y_ptr + i, mask=inside), mask=inside)


@triton.jit
def fused_softmax(out_ptr, x_ptr, x_stride, out_stride, n_rows, n_cols, BLOCK: tl.constexpr):
    """Persistent: each program takes every num_programs-th row."""
    for row in tl.range(tl.program_id(0), n_rows, tl.num_programs(0)):
        col = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * x_stride + col, mask=col < n_cols, other=-float("inf"))
        e = tl.exp(x - tl.max(x, axis=0))
        tl.store(out_ptr + row * out_stride + col, e / tl.sum(e, axis=0), mask=col < n_cols)


@triton.jit
def leaky_relu(x):
    return tl.where(x >= 0, x, 0.01 * x)


@triton.jit
def grouped_matmul(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    a_m,
    a_k,
    b_k,
    b_n,
    c_m,
    c_n,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    pid = tl.program_id(0)
    n_m, n_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    first_m = pid // (GROUP * n_n) * GROUP
    group = min(n_m - first_m, GROUP)
    pid_m = first_m + pid % (GROUP * n_n) % group
    pid_n = pid % (GROUP * n_n) // group
    m = (pid_m * BM + tl.arange(0, BM)) % M
    n = (pid_n * BN + tl.arange(0, BN)) % N
    k = tl.arange(0, BK)
    a = a_ptr + m[:, None] * a_m + k[None, :] * a_k
    b = b_ptr + k[:, None] * b_k + n[None, :] * b_n
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, tl.cdiv(K, BK)):
        left = K - step * BK
        acc = tl.dot(tl.load(a, mask=k[None, :] < left, other=0.0), tl.load(b, mask=k[:, None] < left, other=0.0), acc)
        a += BK * a_k
        b += BK * b_k
    if ACTIVATION:
        acc = leaky_relu(acc)
    m = pid_m * BM + tl.arange(0, BM)
    n = pid_n * BN + tl.arange(0, BN)
    tl.store(
        c_ptr + m[:, None] * c_m + n[None, :] * c_n,
        acc.to(c_ptr.dtype.element_ty),
        mask=(m[:, None] < M) & (n[None, :] < N),
    )


@triton.jit
def layer_norm_forward(x_ptr, y_ptr, w_ptr, b_ptr, mean_ptr, rstd_ptr, stride, N, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x_ptr += row * stride
    y_ptr += row * stride
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for off in range(0, N, BLOCK):
        col = off + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + col, mask=col < N, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / N
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for off in range(0, N, BLOCK):
        col = off + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + col, mask=col < N, other=0.0).to(tl.float32)
        x = tl.where(col < N, x - mean, 0.0)
        square += x * x
    rstd = 1 / tl.sqrt(tl.sum(square, axis=0) / N + eps)
    tl.store(mean_ptr + row, mean)
    tl.store(rstd_ptr + row, rstd)
    for off in range(0, N, BLOCK):
        col = off + tl.arange(0, BLOCK)
        inside = col < N
        w, b = tl.load(w_ptr + col, mask=inside), tl.load(b_ptr + col, mask=inside)
        x = tl.load(x_ptr + col, mask=inside, other=0.0).to(tl.float32)
        tl.store(y_ptr + col, (x - mean) * rstd * w + b, mask=inside)


@triton.jit
def layer_norm_backward_dx(
    dx_ptr,
    dy_ptr,
    dw_ptr,
    db_ptr,
    x_ptr,
    w_ptr,
    mean_ptr,
    rstd_ptr,
    lock_ptr,
    stride,
    N,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx of one row; dw and db added into one of GROUP partial buffers under a spin lock."""
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    inside = col < N
    x = tl.load(x_ptr + row * stride + col, mask=inside, other=0).to(tl.float32)
    dy = tl.load(dy_ptr + row * stride + col, mask=inside, other=0).to(tl.float32)
    w = tl.load(w_ptr + col, mask=inside).to(tl.float32)
    mean, rstd = tl.load(mean_ptr + row), tl.load(rstd_ptr + row)
    xhat = tl.where(inside, (x - mean) * rstd, 0.0)
    wdy = tl.where(inside, w * dy, 0.0)
    c1, c2 = tl.sum(xhat * wdy, axis=0) / N, tl.sum(wdy, axis=0) / N
    tl.store(dx_ptr + row * stride + col, (wdy - (xhat * c1 + c2)) * rstd, mask=inside)
    lock_id = row % GROUP
    lock, count = lock_ptr + lock_id, lock_ptr + GROUP + lock_id
    dw_ptr, db_ptr = dw_ptr + lock_id * N + col, db_ptr + lock_id * N + col
    dw, db = dy * xhat, dy
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    if tl.load(count) == 0:
        tl.atomic_xchg(count, 1)
    else:
        dw += tl.load(dw_ptr, mask=inside)
        db += tl.load(db_ptr, mask=inside)
    tl.store(dw_ptr, dw, mask=inside)
    tl.store(db_ptr, db, mask=inside)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def sum_partials(partial_ptr, out_ptr, M, N, BM: tl.constexpr, BN: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for off in range(0, M, BM):
        m = off + tl.arange(0, BM)
        total += tl.load(partial_ptr + m[:, None] * N + n[None, :], mask=(m[:, None] < M) & (n[None, :] < N), other=0.0)
    tl.store(out_ptr + n, tl.sum(total, axis=0), mask=n < N)


@triton.jit
def attention_inner(
    acc, total, m, q, k_desc, v_desc, base, start, lo, hi, scale, offs_m, offs_n, BN: tl.constexpr, MASKED: tl.constexpr
):
    for at in range(lo, hi, BN):
        k = k_desc.load([base + at, 0]).T
        s = tl.dot(q, k, input_precision="ieee") * scale
        if MASKED:
            s = tl.where(offs_m[:, None] >= (at + offs_n[None, :]), s, -1.0e6)
        new_m = tl.maximum(m, tl.max(s, 1))
        p = tl.math.exp2(s - new_m[:, None])
        alpha = tl.math.exp2(m - new_m)
        v = v_desc.load([base + at, 0])
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
        total = total * alpha + tl.sum(p, 1)
        m = new_m
    return acc, total, m


@triton.jit
def flash_attention(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    scale,
    H,
    T,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """One block of queries of one head, with tensor descriptors over [batch * heads * T, D]."""
    start, head = tl.program_id(0), tl.program_id(1)
    rows = tl.num_programs(1) * T
    q_desc = tl.make_tensor_descriptor(q_ptr, shape=[rows, D], strides=[D, 1], block_shape=[BM, D])
    k_desc = tl.make_tensor_descriptor(k_ptr, shape=[rows, D], strides=[D, 1], block_shape=[BN, D])
    v_desc = tl.make_tensor_descriptor(v_ptr, shape=[rows, D], strides=[D, 1], block_shape=[BN, D])
    out_desc = tl.make_tensor_descriptor(out_ptr, shape=[rows, D], strides=[D, 1], block_shape=[BM, D])
    base = head * T
    offs_m, offs_n = start * BM + tl.arange(0, BM), tl.arange(0, BN)
    m = tl.zeros([BM], dtype=tl.float32) - float("inf")
    total = tl.zeros([BM], dtype=tl.float32) + 1.0
    acc = tl.zeros([BM, D], dtype=tl.float32)
    q = q_desc.load([base + start * BM, 0])
    qk_scale = scale * 1.44269504
    if CAUSAL:
        acc, total, m = attention_inner(
            acc, total, m, q, k_desc, v_desc, base, start, 0, start * BM, qk_scale, offs_m, offs_n, BN, False
        )
        acc, total, m = attention_inner(
            acc,
            total,
            m,
            q,
            k_desc,
            v_desc,
            base,
            start,
            start * BM,
            (start + 1) * BM,
            qk_scale,
            offs_m,
            offs_n,
            BN,
            True,
        )
    else:
        acc, total, m = attention_inner(
            acc, total, m, q, k_desc, v_desc, base, start, 0, T, qk_scale, offs_m, offs_n, BN, False
        )
    total = tl.where(m > -1.0e30, total, 1.0)
    tl.store(lse_ptr + base + offs_m, m + tl.math.log2(total))
    out_desc.store([base + start * BM, 0], (acc / total[:, None]).to(out_ptr.dtype.element_ty))

"""Plain Triton kernels whose time is measured on silicon and predicted by the simulator.

Each is the textbook form of its operator: pointer arithmetic, no descriptors, no tuning by search, so that the same
source runs on any Triton back end. Tensors are contiguous unless a stride argument says otherwise. Needs only triton.
"""

import triton
import triton.language as tl


@triton.jit
def vector_add(x_ptr, y_ptr, out_ptr, n, BLOCK_N: tl.constexpr):
    """out[n] = x[n] + y[n]; one program per BLOCK_N elements."""
    offsets = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = offsets < n
    x = tl.load(x_ptr + offsets, mask=inside)
    y = tl.load(y_ptr + offsets, mask=inside)
    tl.store(out_ptr + offsets, x + y, mask=inside)


@triton.jit
def gelu(x_ptr, out_ptr, n, BLOCK_N: tl.constexpr):
    """out[n] = x/2 (1 + erf(x / sqrt 2)) computed in float32; one program per BLOCK_N elements."""
    offsets = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = offsets < n
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    tl.store(out_ptr + offsets, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def copy_rows(src_ptr, dst_ptr, n, src_stride, BLOCK_N: tl.constexpr):
    """dst[m, n] (dense) = src[m, n] whose rows lie src_stride elements apart; grid (m, ceil(n / BLOCK_N))."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = cols < n
    tl.store(dst_ptr + row * n + cols, tl.load(src_ptr + row * src_stride + cols, mask=inside), mask=inside)


@triton.jit
def softmax_rows(x_ptr, out_ptr, n, BLOCK_N: tl.constexpr):
    """out[m, n] = softmax of x along n, in float32; one program per row, BLOCK_N >= n."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n
    x = tl.load(x_ptr + row * n + cols, mask=inside, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    tl.store(out_ptr + row * n + cols, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm_rows(x_ptr, weight_ptr, bias_ptr, out_ptr, n, eps, BLOCK_N: tl.constexpr):
    """out[m, n] = (x - mean) / sqrt(var + eps) * weight + bias, in float32; one program per row, BLOCK_N >= n."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    inside = cols < n
    x = tl.load(x_ptr + row * n + cols, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / n
    centred = tl.where(inside, x - mean, 0.0)
    inv_std = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / n + eps)
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    y = centred * inv_std * weight + bias
    tl.store(out_ptr + row * n + cols, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def row_sum(x_ptr, out_ptr, n, BLOCK_N: tl.constexpr):
    """out[m] (float32) = sum of x[m, n] along n; one program per row, BLOCK_N columns at a time."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_N)
    partial = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(0, n, BLOCK_N):
        inside = start + cols < n
        partial += tl.load(x_ptr + row * n + start + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, tl.sum(partial, axis=0))


@triton.jit
def embedding_bag(table_ptr, index_ptr, out_ptr, pooling, DIM: tl.constexpr):
    """out[m, DIM] = sum over p of table[index[m, p], DIM], in float32; one program per bag, DIM a power of two."""
    bag = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, DIM)
    total = tl.zeros((DIM,), dtype=tl.float32)
    for p in range(0, pooling):
        row = tl.load(index_ptr + bag * pooling + p).to(tl.int64)
        total += tl.load(table_ptr + row * DIM + cols).to(tl.float32)
    tl.store(out_ptr + bag * DIM + cols, total.to(out_ptr.dtype.element_ty))


@triton.jit
def matmul(
    a_ptr,
    w_ptr,
    c_ptr,
    m,
    n,
    k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    IS_EVEN_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """c[m, n] = a[m, k] @ w[n, k]^T, float32 accumulator.

    One program per output tile. Programs walk down GROUP_M tile rows before they step one tile column to the right,
    so that neighbours share operands in the cache. IS_EVEN_K says that BLOCK_K divides k (no mask along k).
    """
    program = tl.program_id(0)
    n_tile_rows = tl.cdiv(m, BLOCK_M)
    n_tile_cols = tl.cdiv(n, BLOCK_N)
    band = program // (GROUP_M * n_tile_cols)
    in_band = program % (GROUP_M * n_tile_cols)
    band_rows = tl.minimum(n_tile_rows - band * GROUP_M, GROUP_M)
    rows = (band * GROUP_M + in_band % band_rows) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (in_band // band_rows) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # Rows beyond the edge wrap round: they load valid data, and the store's mask drops what they computed.
    a_ptrs = a_ptr + (rows % m)[:, None] * k + inner[None, :]
    w_ptrs = w_ptr + (cols % n)[None, :] * k + inner[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        if IS_EVEN_K:
            a = tl.load(a_ptrs)
            w = tl.load(w_ptrs)
        else:
            a = tl.load(a_ptrs, mask=(start + inner < k)[None, :], other=0.0)
            w = tl.load(w_ptrs, mask=(start + inner < k)[:, None], other=0.0)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
        a_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    c_ptrs = c_ptr + rows[:, None] * n + cols[None, :]
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=(rows < m)[:, None] & (cols < n)[None, :])


@triton.jit
def _attend(
    acc,
    row_max,
    row_total,
    q,
    k_ptr,
    v_ptr,
    rows,
    first,
    stop,
    scale_log2,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_DIAGONAL: tl.constexpr,
):
    """Fold keys first..stop into the running softmax; on the diagonal, keys after their row count nothing."""
    dims = tl.arange(0, HEAD_DIM)
    for start in range(first, stop, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k_t = tl.load(k_ptr + keys[None, :] * HEAD_DIM + dims[:, None])
        scores = tl.dot(q, k_t) * scale_log2
        if IS_DIAGONAL:
            scores = tl.where(rows[:, None] >= keys[None, :], scores, -1.0e30)
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_total = row_total * shrink + tl.sum(p, axis=1)
        v = tl.load(v_ptr + keys[:, None] * HEAD_DIM + dims[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        row_max = new_max
    return acc, row_max, row_total


@triton.jit
def attention(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    seq,
    scale_log2,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
):
    """out = softmax(q k^T scale) v per head; all [batch * heads, seq, HEAD_DIM]; scale_log2 = scale * log2(e).

    Grid (seq / BLOCK_M, batch * heads). BLOCK_M and BLOCK_N divide seq and BLOCK_N divides BLOCK_M: nothing is masked
    but the diagonal.
    """
    first_row = tl.program_id(0) * BLOCK_M
    head = tl.program_id(1).to(tl.int64) * seq * HEAD_DIM
    rows = first_row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, HEAD_DIM)
    tile = rows[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(q_ptr + head + tile)
    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    row_max = tl.full((BLOCK_M,), -1.0e30, dtype=tl.float32)
    row_total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    unmasked = first_row if IS_CAUSAL else seq
    acc, row_max, row_total = _attend(
        acc, row_max, row_total, q, k_ptr + head, v_ptr + head, rows, 0, unmasked, scale_log2, HEAD_DIM, BLOCK_N, False
    )
    if IS_CAUSAL:
        stop = first_row + BLOCK_M
        acc, row_max, row_total = _attend(
            acc, row_max, row_total, q, k_ptr + head, v_ptr + head, rows, first_row, stop, scale_log2, HEAD_DIM,
            BLOCK_N, True,
        )  # fmt: skip
    out = acc / row_total[:, None]
    tl.store(out_ptr + head + tile, out.to(out_ptr.dtype.element_ty))

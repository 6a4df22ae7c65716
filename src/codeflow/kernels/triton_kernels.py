"""The Triton kernels of gated attention: forward, gradients of rows (queries, gates), gradients of keys and values.

A program of the first two owns a tile of queries of one head and walks over the keys that they may see: first those of
the whole document, then those of the window, with the tile of queries in place. A program of the third owns a tile of
keys of one key/value head and walks over the queries that see it, head by head, so that no sum depends on the order of
programs. Tiles outside the documents' and the causal range are never visited, and only tiles at the edge are masked.
Scores are in base 2: weights = exp2(scores - lse). A query that sees nothing has lse = inf, weights 0, output 0.

Pointers and sizes come in tuples, switches in one constexpr tuple `OPTIONS`; see `triton_fused`, which launches.
All tensors are contiguous: q, o, a (B, T, H, D); k, v (B, T, G, D); logits (B, T, H) or (B, T, H, D);
starts, ends (B, T) int32; lse, terms (B, H, T) fp32.
"""

from __future__ import annotations

# pyright: reportGeneralTypeIssues=false
import triton
import triton.language as tl


@triton.jit
def _narrow(x, dtype: tl.constexpr, OPTIONS: tl.constexpr):
    """Round fp32 to dtype. The interpreter would cut the last bits off for bf16: there they are rounded here."""
    if OPTIONS[9] and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def _tile(pointer, positions, stride, inside, OPTIONS: tl.constexpr):
    """Load (positions, D) of one head from its first element; zero outside."""
    HEAD_DIM: tl.constexpr = OPTIONS[6]
    BLOCK_D: tl.constexpr = OPTIONS[7]
    dims = tl.arange(0, BLOCK_D)
    places = pointer + positions[:, None] * stride + dims[None, :]
    return tl.load(places, mask=inside[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)


@triton.jit
def _store(pointer, positions, stride, inside, values, OPTIONS: tl.constexpr):
    """Store (positions, D) of one head."""
    HEAD_DIM: tl.constexpr = OPTIONS[6]
    BLOCK_D: tl.constexpr = OPTIONS[7]
    dims = tl.arange(0, BLOCK_D)
    places = pointer + positions[:, None] * stride + dims[None, :]
    tl.store(
        places, _narrow(values, pointer.dtype.element_ty, OPTIONS), mask=inside[:, None] & (dims < HEAD_DIM)[None, :]
    )


@triton.jit
def _gate(logits, where, positions, inside, sizes, OPTIONS: tl.constexpr):
    """Return g (positions, 1 or D) in fp32; where = (first position of the row in the batch, head)."""
    if OPTIONS[0] == 2:
        mine = logits + (where[0] * sizes[1] + where[1]) * OPTIONS[6]
        raw = _tile(mine, positions, sizes[1] * OPTIONS[6], inside, OPTIONS)
    else:
        mine = logits + where[0] * sizes[1] + where[1]
        raw = tl.load(mine + positions * sizes[1], mask=inside, other=0.0)[:, None]
    return tl.sigmoid(raw.to(tl.float32))


@triton.jit
def _row_starts(starts, positions, inside, OPTIONS: tl.constexpr):
    """Return the first position of each query's document."""
    if OPTIONS[3]:
        return tl.load(starts + positions, mask=inside, other=0)
    return positions * 0


@triton.jit
def _dot(a, b, OPTIONS: tl.constexpr):
    """Matrix product summed in fp32. The interpreter has no bf16 product: there operands are widened."""
    if OPTIONS[9]:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=OPTIONS[8])


@triton.jit
def _attend_span(state, q, kv, rows, span, scale, OPTIONS: tl.constexpr, MASKED: tl.constexpr):
    """One pass of online softmax over the keys span[0]..span[1] in steps of span[2]; rows = (first key, last key)."""
    keys, values, stride, length = kv
    output, high, total = state
    BLOCK_N: tl.constexpr = span[2]
    for start in range(span[0], span[1], BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < length
        scores = _dot(q, tl.trans(_tile(keys, at, stride, inside, OPTIONS)), OPTIONS) * scale
        if MASKED:
            visible = (at[None, :] >= rows[0][:, None]) & (at[None, :] <= rows[1][:, None])
            scores = tl.where(visible, scores, float("-inf"))
        highest = tl.maximum(high, tl.max(scores, 1))
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(high - shift)
        total = total * decay + tl.sum(weights, 1)
        v = _tile(values, at, stride, inside, OPTIONS)
        output = output * decay[:, None] + _dot(_narrow(weights, v.dtype, OPTIONS), v, OPTIONS)
        high = highest
    return output, high, total


@triton.jit
def _edges(first, last, low, high, BLOCK_N: tl.constexpr):
    """Cut the keys first..last of a tile of rows at block borders; between the two cuts every row sees every key.

    low is the greatest first key of the rows, high the smallest last key; returns begin, cut, cut.
    """
    begin = first // BLOCK_N * BLOCK_N
    cut = tl.maximum((low + BLOCK_N - 1) // BLOCK_N * BLOCK_N, begin)
    end = tl.maximum((high + 1) // BLOCK_N * BLOCK_N, cut)
    return begin, tl.minimum(cut, last), tl.minimum(end, last)


@triton.jit
def _finish(state):
    """Return the output and lse of an online softmax."""
    output, high, total = state
    empty = total == 0.0
    output = output / tl.where(empty, 1.0, total)[:, None]
    return output, tl.where(empty, float("inf"), high + tl.log2(tl.where(empty, 1.0, total)))


@triton.jit
def _query_tile(starts, sizes, OPTIONS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return of this program: row, head, first and last position, their documents' starts. Long tiles come first."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    last = tl.minimum(first + BLOCK_M, sizes[0]) - 1
    row = (tl.program_id(1) // sizes[1]).to(tl.int64)
    head = tl.program_id(1) % sizes[1]
    if OPTIONS[3]:
        line = starts + row * sizes[0]
        return row, head, first, last, tl.load(line + first), tl.load(line + last)
    return row, head, first, last, first * 0, first * 0


@triton.jit
def forward_kernel(inputs, outputs, sizes, scale, OPTIONS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Write o, lse1, lse2, and a when it is kept. Grid (tiles of BLOCK_M positions, B * H)."""
    q_, k1, v1, k2, v2, logits, given, starts = inputs
    o_, a_, lse1_, lse2_ = outputs
    length, n_heads, repeats, window = sizes
    BLOCK_D: tl.constexpr = OPTIONS[7]
    row, head, first, last, start_first, start_last = _query_tile(starts, sizes, OPTIONS, BLOCK_M)
    stride = n_heads * OPTIONS[6]
    at = first + tl.arange(0, BLOCK_M)
    inside = at < length
    mine = row * length * stride + head * OPTIONS[6]
    kv_stride = n_heads // repeats * OPTIONS[6]
    kv_mine = row * length * kv_stride + head // repeats * OPTIONS[6]
    q = _tile(q_ + mine, at, stride, inside, OPTIONS)
    own_starts = _row_starts(starts + row * length, at, inside, OPTIONS)
    fresh = (
        tl.zeros([BLOCK_M, BLOCK_D], tl.float32),
        tl.full([BLOCK_M], float("-inf"), tl.float32),
        tl.zeros([BLOCK_M], tl.float32),
    )
    if OPTIONS[1]:
        kv = (k1 + kv_mine, v1 + kv_mine, kv_stride, length)
        sees = (own_starts, at)
        begin, cut, end = _edges(start_first, last + 1, start_last, first, BLOCK_N)
        state = fresh
        if OPTIONS[3]:
            state = _attend_span(state, q, kv, sees, (begin, cut, BLOCK_N), scale, OPTIONS, True)
        state = _attend_span(state, q, kv, sees, (cut, end, BLOCK_N), scale, OPTIONS, False)
        state = _attend_span(state, q, kv, sees, (end, last + 1, BLOCK_N), scale, OPTIONS, True)
        mixed, lse = _finish(state)
        tl.store(lse1_ + (row * n_heads + head) * length + at, lse, mask=inside)
    else:
        mixed = _tile(given + mine, at, stride, inside, OPTIONS).to(tl.float32)
    if OPTIONS[5]:
        _store(a_ + mine, at, stride, inside, mixed, OPTIONS)
    if OPTIONS[0]:
        begin = tl.maximum(start_first, first - window + 1) // BLOCK_N * BLOCK_N
        kv = (k2 + kv_mine, v2 + kv_mine, kv_stride, length)
        sees = (tl.maximum(own_starts, at - window + 1), at - OPTIONS[4])
        state = _attend_span(fresh, q, kv, sees, (begin, last + 1, BLOCK_N), scale, OPTIONS, True)
        local, lse = _finish(state)
        tl.store(lse2_ + (row * n_heads + head) * length + at, lse, mask=inside)
        g = _gate(logits, (row * length, head), at, inside, sizes, OPTIONS)
        mixed = g * mixed + (1 - g) * local
    _store(o_ + mine, at, stride, inside, mixed, OPTIONS)


@triton.jit
def _weights(q, keys, at, rows, lse, scale, OPTIONS: tl.constexpr, MASKED: tl.constexpr):
    """Recompute the softmax weights (rows, keys) from lse; rows = (first key, last key) of each."""
    weights = tl.exp2(_dot(q, tl.trans(keys), OPTIONS) * scale - lse[:, None])
    if MASKED:
        visible = (at[None, :] >= rows[0][:, None]) & (at[None, :] <= rows[1][:, None])
        weights = tl.where(visible, weights, 0.0)
    return weights


@triton.jit
def _output_span(output, q, kv, rows, span, scale, OPTIONS: tl.constexpr):
    """Recompute the output of the window; rows = (first key, last key, lse)."""
    keys, values, stride, length = kv
    BLOCK_N: tl.constexpr = span[2]
    for start in range(span[0], span[1], BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < length
        weights = _weights(q, _tile(keys, at, stride, inside, OPTIONS), at, rows, rows[2], scale, OPTIONS, True)
        v = _tile(values, at, stride, inside, OPTIONS)
        output += _dot(_narrow(weights, v.dtype, OPTIONS), v, OPTIONS)
    return output


@triton.jit
def _d_query_span(d_q, tiles, kv, rows, span, scale, OPTIONS: tl.constexpr, MASKED: tl.constexpr):
    """Add to dq what comes through the keys of a span; tiles = (q, d_output), rows = (first, last key, lse, term)."""
    keys, values, stride, length = kv
    BLOCK_N: tl.constexpr = span[2]
    for start in range(span[0], span[1], BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < length
        k = _tile(keys, at, stride, inside, OPTIONS)
        weights = _weights(tiles[0], k, at, rows, rows[2], scale, OPTIONS, MASKED)
        d_weights = _dot(tiles[1], tl.trans(_tile(values, at, stride, inside, OPTIONS)), OPTIONS)
        d_scores = weights * (d_weights - rows[3][:, None])
        d_q += _dot(_narrow(d_scores, k.dtype, OPTIONS), k, OPTIONS)
    return d_q


@triton.jit
def _parts(d_o, mixed, local, g, OPTIONS: tl.constexpr):
    """Return dA, dB, dA * A and dB * B (rows, D).

    The products are made of the rounded dA and dB, as the weights' gradients are: then their differences cancel.
    """
    d_a = _narrow(g * d_o.to(tl.float32), d_o.dtype, OPTIONS)
    d_b = _narrow((1 - g) * d_o.to(tl.float32), d_o.dtype, OPTIONS)
    through_b = d_b.to(tl.float32) * local
    if OPTIONS[5]:
        through_a = d_a.to(tl.float32) * mixed.to(tl.float32)
    else:  # dO * O = dA * A + dB * B
        through_a = d_o.to(tl.float32) * mixed.to(tl.float32) - through_b
    return d_a, d_b, through_a, through_b


@triton.jit
def d_rows_kernel(
    inputs, kept, outputs, sizes, scale, OPTIONS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Write dq, d_logits, the terms of both attentions, and da when a was given. Grid as of the forward."""
    q_, k1, v1, k2, v2, logits, _, starts = inputs
    d_o_, mixed_, lse1_, lse2_ = kept
    d_q_, d_logits_, term1_, term2_, d_a_ = outputs
    length, n_heads, repeats, window = sizes
    BLOCK_D: tl.constexpr = OPTIONS[7]
    row, head, first, last, start_first, start_last = _query_tile(starts, sizes, OPTIONS, BLOCK_M)
    stride = n_heads * OPTIONS[6]
    at = first + tl.arange(0, BLOCK_M)
    inside = at < length
    mine = row * length * stride + head * OPTIONS[6]
    kv_stride = n_heads // repeats * OPTIONS[6]
    kv_mine = row * length * kv_stride + head // repeats * OPTIONS[6]
    scalars = (row * n_heads + head) * length + at
    q = _tile(q_ + mine, at, stride, inside, OPTIONS)
    d_o = _tile(d_o_ + mine, at, stride, inside, OPTIONS)
    own_starts = _row_starts(starts + row * length, at, inside, OPTIONS)
    d_q = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    d_a = d_o
    if OPTIONS[0]:
        begin = tl.maximum(start_first, first - window + 1) // BLOCK_N * BLOCK_N
        kv = (k2 + kv_mine, v2 + kv_mine, kv_stride, length)
        lse = tl.load(lse2_ + scalars, mask=inside, other=float("inf"))
        sees = (tl.maximum(own_starts, at - window + 1), at - OPTIONS[4], lse)
        local = _output_span(d_q, q, kv, sees, (begin, last + 1, BLOCK_N), scale, OPTIONS)
        g = _gate(logits, (row * length, head), at, inside, sizes, OPTIONS)
        mixed = _tile(mixed_ + mine, at, stride, inside, OPTIONS)
        d_a, d_b, through_a, through_b = _parts(d_o, mixed, local, g, OPTIONS)
        d_logits = (1 - g) * through_a - g * through_b
        if OPTIONS[0] == 2:
            _store(d_logits_ + mine, at, stride, inside, d_logits, OPTIONS)
        else:
            total = _narrow(tl.sum(d_logits, 1), d_logits_.dtype.element_ty, OPTIONS)
            tl.store(d_logits_ + (row * length + at) * n_heads + head, total, mask=inside)
        term1 = tl.sum(through_a, 1)
        term2 = tl.sum(through_b, 1)
        tl.store(term2_ + scalars, term2, mask=inside)
        sees = (sees[0], sees[1], lse, term2)
        d_q = _d_query_span(d_q, (q, d_b), kv, sees, (begin, last + 1, BLOCK_N), scale, OPTIONS, True)
    else:
        term1 = tl.sum(d_o.to(tl.float32) * _tile(mixed_ + mine, at, stride, inside, OPTIONS).to(tl.float32), 1)
    if OPTIONS[1]:
        tl.store(term1_ + scalars, term1, mask=inside)
        lse = tl.load(lse1_ + scalars, mask=inside, other=float("inf"))
        kv = (k1 + kv_mine, v1 + kv_mine, kv_stride, length)
        sees = (own_starts, at, lse, term1)
        begin, cut, end = _edges(start_first, last + 1, start_last, first, BLOCK_N)
        tiles = (q, d_a)
        if OPTIONS[3]:
            d_q = _d_query_span(d_q, tiles, kv, sees, (begin, cut, BLOCK_N), scale, OPTIONS, True)
        d_q = _d_query_span(d_q, tiles, kv, sees, (cut, end, BLOCK_N), scale, OPTIONS, False)
        d_q = _d_query_span(d_q, tiles, kv, sees, (end, last + 1, BLOCK_N), scale, OPTIONS, True)
    else:
        _store(d_a_ + mine, at, stride, inside, d_a, OPTIONS)
    _store(d_q_ + mine, at, stride, inside, d_q * (scale * 0.6931471805599453), OPTIONS)


@triton.jit
def _d_key_span(sums, kv, queries, span, gating, sizes, OPTIONS: tl.constexpr, MASKED: tl.constexpr):
    """Add to dk and dv what comes through the queries of a span of one head.

    kv = (keys, values, their positions); queries = (q, d_output, lse, term, starts: pointers at the row and head);
    span = (begin, end, step, window, scale, is it the window's part?);
    gating = (logits, first position of the row, head).
    """
    d_k, d_v = sums
    k, v, at = kv
    length, n_heads, repeats, _ = sizes
    stride = n_heads * OPTIONS[6]
    BLOCK_M: tl.constexpr = span[2]
    WINDOWED: tl.constexpr = span[5]
    for start in range(span[0], span[1], BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        inside = rows < length
        q = _tile(queries[0], rows, stride, inside, OPTIONS)
        d_o = _tile(queries[1], rows, stride, inside, OPTIONS)
        if OPTIONS[0]:
            g = _gate(gating[0], (gating[1], gating[2]), rows, inside, sizes, OPTIONS)
            d_o = _narrow((1 - g if WINDOWED else g) * d_o.to(tl.float32), q.dtype, OPTIONS)
        lse = tl.load(queries[2] + rows, mask=inside, other=float("inf"))
        term = tl.load(queries[3] + rows, mask=inside, other=0.0)
        low = _row_starts(queries[4], rows, inside, OPTIONS)
        high = rows
        if WINDOWED:
            low = tl.maximum(low, rows - span[3] + 1)
            high = rows - OPTIONS[4]
        weights = tl.exp2(_dot(k, tl.trans(q), OPTIONS) * span[4] - lse[None, :])  # (keys, queries)
        if MASKED:
            visible = (at[:, None] >= low[None, :]) & (at[:, None] <= high[None, :])
            weights = tl.where(visible, weights, 0.0)
        d_v += _dot(_narrow(weights, q.dtype, OPTIONS), d_o, OPTIONS)
        d_scores = weights * (_dot(v, tl.trans(d_o), OPTIONS) - term[None, :])
        d_k += _dot(_narrow(d_scores, q.dtype, OPTIONS), q, OPTIONS)
    return d_k, d_v


@triton.jit
def _key_tile(starts, ends, sizes, OPTIONS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return of this program: row, key/value head, first and last position, the last one's document's end and start."""
    first = tl.program_id(0) * BLOCK_N
    last = tl.minimum(first + BLOCK_N, sizes[0]) - 1
    n_kv_heads = sizes[1] // sizes[2]
    row = (tl.program_id(1) // n_kv_heads).to(tl.int64)
    head = tl.program_id(1) % n_kv_heads
    if OPTIONS[3]:
        line = row * sizes[0] + last
        return row, head, first, last, tl.load(ends + line), tl.load(starts + line)
    return row, head, first, last, last * 0 + sizes[0], last * 0


@triton.jit
def d_keys_kernel(
    inputs, kept, outputs, sizes, scale, OPTIONS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Write dk1, dv1, dk2, dv2. Grid (tiles of BLOCK_N positions, B * G)."""
    q_, k1, v1, k2, v2, logits, starts, ends = inputs
    d_o_, lse1_, lse2_, term1_, term2_ = kept
    d_k1, d_v1, d_k2, d_v2 = outputs
    length, n_heads, repeats, window = sizes
    BLOCK_D: tl.constexpr = OPTIONS[7]
    row, kv_head, first, last, end, start_last = _key_tile(starts, ends, sizes, OPTIONS, BLOCK_N)
    at = first + tl.arange(0, BLOCK_N)
    inside = at < length
    stride = n_heads * OPTIONS[6]
    kv_stride = n_heads // repeats * OPTIONS[6]
    kv_mine = row * length * kv_stride + kv_head * OPTIONS[6]
    begin = first // BLOCK_M * BLOCK_M
    zeros = (tl.zeros([BLOCK_N, BLOCK_D], tl.float32), tl.zeros([BLOCK_N, BLOCK_D], tl.float32))
    if OPTIONS[1]:
        sums = zeros
        k = _tile(k1 + kv_mine, at, kv_stride, inside, OPTIONS)
        kv = (k, _tile(v1 + kv_mine, at, kv_stride, inside, OPTIONS), at)
        # between the cuts every query sees every key of the tile: after the last key, if they share a document
        cut = tl.minimum((last + BLOCK_M) // BLOCK_M * BLOCK_M, end)
        whole = tl.maximum(end // BLOCK_M * BLOCK_M, cut)
        if OPTIONS[3]:
            cut = tl.where(start_last <= first, cut, end)
            whole = tl.where(start_last <= first, whole, end)
        for repeat in range(repeats):
            head = kv_head * repeats + repeat
            mine = row * length * stride + head * OPTIONS[6]
            line = (row * n_heads + head) * length
            queries = (q_ + mine, d_o_ + mine, lse1_ + line, term1_ + line, starts + row * length)
            gating = (logits, row * length, head)
            sums = _d_key_span(sums, kv, queries, (begin, cut, BLOCK_M, 0, scale, False), gating, sizes, OPTIONS, True)
            sums = _d_key_span(sums, kv, queries, (cut, whole, BLOCK_M, 0, scale, False), gating, sizes, OPTIONS, False)
            sums = _d_key_span(sums, kv, queries, (whole, end, BLOCK_M, 0, scale, False), gating, sizes, OPTIONS, True)
        _store(d_k1 + kv_mine, at, kv_stride, inside, sums[0] * (scale * 0.6931471805599453), OPTIONS)
        _store(d_v1 + kv_mine, at, kv_stride, inside, sums[1], OPTIONS)
    if OPTIONS[0]:
        sums = zeros
        k = _tile(k2 + kv_mine, at, kv_stride, inside, OPTIONS)
        kv = (k, _tile(v2 + kv_mine, at, kv_stride, inside, OPTIONS), at)
        stop = tl.minimum(end, last + window)
        for repeat in range(repeats):
            head = kv_head * repeats + repeat
            mine = row * length * stride + head * OPTIONS[6]
            line = (row * n_heads + head) * length
            queries = (q_ + mine, d_o_ + mine, lse2_ + line, term2_ + line, starts + row * length)
            gating = (logits, row * length, head)
            sums = _d_key_span(
                sums, kv, queries, (begin, stop, BLOCK_M, window, scale, True), gating, sizes, OPTIONS, True
            )
        _store(d_k2 + kv_mine, at, kv_stride, inside, sums[0] * (scale * 0.6931471805599453), OPTIONS)
        _store(d_v2 + kv_mine, at, kv_stride, inside, sums[1], OPTIONS)

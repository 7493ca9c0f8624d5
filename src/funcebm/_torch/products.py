"""Matrix products of compiled functions, by the BLAS that torch brings along."""

from __future__ import annotations

from typing import Any

import torch

from .layout import Buffer, Call

__all__ = ["HELPERS", "product"]

HELPERS = r"""
typedef void (*sgemm_t)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
                        const float*, const int*, const float*, float*, const int*);
typedef void (*dgemm_t)(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
                        const double*, const int*, const double*, double*, const int*);
static sgemm_t sgemm;
static dgemm_t dgemm;
// a thread that another process keeps waiting costs milliseconds: only what takes longer is shared
struct Threads {
    const bool is_shared;
    explicit Threads(int64_t work) : is_shared(threads > 1 && mkl_threads && work >= (int64_t(1) << 27)) {
        if (is_shared) mkl_threads(threads);
    }
    ~Threads() { if (is_shared) mkl_threads(1); }
};
static inline void gemm(const char* ta, const char* tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                        int ldb, float beta, float* c, int ldc) {
    const Threads shared(int64_t(m) * n * k);
    sgemm(ta, tb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc);
}
static inline void gemm(const char* ta, const char* tb, int m, int n, int k, double alpha, const double* a, int lda,
                        const double* b, int ldb, double beta, double* c, int ldc) {
    const Threads shared(int64_t(m) * n * k);
    dgemm(ta, tb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc);
}
template <typename T>
static void fill_bias(T* to, const T* from, int64_t batch, int64_t rows, int64_t columns, int64_t sb, int64_t sr, int64_t sc) {
    for (int64_t i = 0; i < batch; ++i)
        for (int64_t j = 0; j < rows; ++j)
            for (int64_t k = 0; k < columns; ++k) *to++ = from[i * sb + j * sr + k * sc];
}
"""


def product(writer: Any, step: Call) -> list[str] | None:
    """The lines of ``mm``, ``bmm``, ``addmm`` or ``baddbmm``, or None where BLAS cannot do it as it is."""
    args, kwargs = step.args
    out: Buffer = kwargs["out"]
    a, b = args[-2:]
    if out.dtype not in (torch.float32, torch.float64) or any(x.dtype != out.dtype for x in (a, b)):
        return None
    alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1) if len(args) == 3 else 0
    lines = []
    rows, columns = out.shape[-2:]
    inner, batch = a.shape[-1], out.shape[0] if len(out.shape) == 3 else 1
    is_contiguous = out.strides[-2:] == (columns, 1) and (len(out.shape) == 2 or out.strides[0] == rows * columns)
    if not is_contiguous or 0 in (*out.shape, inner):
        return None
    factors = [_operand(b), _operand(a)]  # BLAS goes by columns: it computes the transposed product
    if any(factor is None for factor in factors):
        return None
    if len(args) == 3 and beta != 0:
        bias = args[0]
        if bias.dtype != out.dtype:
            return None
        strides = [0] * (3 - len(bias.strides)) + list(bias.strides)
        shape = [1] * (3 - len(bias.shape)) + list(bias.shape)
        strides = [0 if size == 1 else step_ for size, step_ in zip(shape, strides, strict=True)]
        numbers = ", ".join(map(str, [batch, rows, columns, *strides]))
        lines.append(f"fill_bias({writer.pointer(out)}, {writer.pointer(bias)}, {numbers});")
    elif len(args) == 3:
        beta = 0
    (tb, ldb), (ta, lda) = factors  # type: ignore[misc]
    kind = "float" if out.dtype == torch.float32 else "double"

    def call(pb: str, pa: str, pc: str) -> str:
        return (
            f'gemm("{tb}", "{ta}", {columns}, {rows}, {inner}, ({kind}){alpha}, {pb}, {ldb}, {pa}, {lda}, '
            f"({kind}){beta}, {pc}, {columns});"
        )

    if len(out.shape) == 2:
        return [*lines, call(writer.pointer(b), writer.pointer(a), writer.pointer(out))]
    moved = [f"{writer.pointer(x)} + i_ * {x.strides[0] if x.shape[0] > 1 else 0}" for x in (b, a, out)]
    return [*lines, f"for (int64_t i_ = 0; i_ < {batch}; ++i_) {call(*moved)}"]


def _operand(x: Buffer) -> tuple[str, int] | None:
    """How BLAS, which goes by columns, reads a matrix: ``n`` or ``t``, and its leading dimension; None where it cannot."""
    (rows, columns), (row, column) = x.shape[-2:], x.strides[-2:]
    if (column == 1 or columns == 1) and (row >= columns or rows == 1):
        return "n", max(row if rows > 1 else columns, columns, 1)
    if (row == 1 or rows == 1) and (column >= rows or columns == 1):
        return "t", max(column if columns > 1 else rows, rows, 1)
    return None

/* Threefry-2x32-20 over a grid of keys and counters, and normals made of its words.

   A block is a pure function of its key, its counter and the domain: whatever the sizes, the strides and the number of
   threads, its numbers are the same bits. So every operation below rounds as IEEE 754 says (compile with
   -ffp-contract=off, without -ffast-math), a fused multiply-add is written as one or is none, and a block has one code
   path: its words are copied into a lane of a tile, the lanes are worked on by loops that the compiler vectorises, and
   the results are copied out.

   Reference: Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC11.
   The polynomials are minimax fits (Remez) made for this file; the error of each is given beside it. */

#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef __clang__
#pragma clang fp contract(off)
#endif

#define WORDS 0
#define NORMAL32 1
#define NORMAL64 2

#define TILE 256            /* lanes of a tile: all its arrays fit into the first-level cache */
#define LANES 16            /* loops run over a multiple of it, so that no scalar remainder is left */
#define SHARE (1 << 18)     /* blocks that take longer than a thread may wait for another process */
#define SHORT 16            /* an axis shorter than it is no good as the inner one */

#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
#define FMA32(a, b, c) __builtin_fmaf(a, b, c)
#define FMA64(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA32(a, b, c) ((a) * (b) + (c))
#define FMA64(a, b, c) ((a) * (b) + (c))
#endif

/* -- one lane ---------------------------------------------------------------------------------------------------- */

typedef union { uint32_t word; int32_t integer; float real; } bits32;
typedef union { uint64_t word; int64_t integer; double real; } bits64;

static inline uint32_t rotate_left(uint32_t word, int distance) {
    return (word << distance) | (word >> (32 - distance));
}

#define ROUND(distance) x0 += x1; x1 = rotate_left(x1, distance) ^ x0;
#define ROUNDS_A ROUND(13) ROUND(15) ROUND(26) ROUND(6)
#define ROUNDS_B ROUND(17) ROUND(29) ROUND(16) ROUND(24)

static inline void block(uint32_t key0, uint32_t key1, uint32_t high, uint32_t low, uint32_t *word0, uint32_t *word1) {
    uint32_t key2 = key0 ^ key1 ^ 0x1BD11BDAu, x0 = high + key0, x1 = low + key1;
    ROUNDS_A x0 += key1; x1 += key2 + 1u;
    ROUNDS_B x0 += key2; x1 += key0 + 2u;
    ROUNDS_A x0 += key0; x1 += key1 + 3u;
    ROUNDS_B x0 += key1; x1 += key2 + 4u;
    ROUNDS_A x0 += key2; x1 += key0 + 5u;
    *word0 = x0;
    *word1 = x1;
}

/* sqrt(-2 log u) for a normal number u in (0, 1]. u = m 2^e with m in [sqrt(1/2), sqrt(2)), f = m - 1, and
   -2 log(1 + f) = f (-2 + f Q(f)); relative error of the fit 3e-8. */
static inline float radius32(float uniform) {
    bits32 u, m;
    u.real = uniform;
    int32_t exponent = (u.integer - 0x3F3504F3) >> 23;
    m.integer = u.integer - exponent * (1 << 23);
    float f = m.real - 1.0f, q = -0.174696828f;
    q = FMA32(q, f, 0.286150298f);
    q = FMA32(q, f, -0.298359428f);
    q = FMA32(q, f, 0.331410184f);
    q = FMA32(q, f, -0.39924145f);
    q = FMA32(q, f, 0.500035104f);
    q = FMA32(q, f, -0.666679004f);
    q = FMA32(q, f, 0.999999832f);
    return __builtin_sqrtf(FMA32(f, FMA32(f, q, -2.0f), (float)exponent * -1.38629436f));
}

/* (cos, sin) of pi turns, turns in [-1, 1]. r = turns - quarters / 2 in [-1/4, 1/4] is exact;
   sin(pi r) = r S(r^2) and cos(pi r) = 1 + r^2 C(r^2), errors of the fits 4e-9 and 6e-11. */
static inline void circle32(float turns, float *cosine, float *sine) {
    bits32 shifted, c, s, first, second;
    shifted.real = FMA32(turns, 2.0f, 12582912.0f); /* 1.5 2^23: the sum is rounded to an integer, in the low bits */
    uint32_t quarters = shifted.word;
    float r = FMA32(shifted.real - 12582912.0f, -0.5f, turns), z = r * r, p = -0.58901221f, q = 0.231429547f;
    p = FMA32(p, z, 2.54976105f);
    q = FMA32(q, z, -1.33505846f);
    p = FMA32(p, z, -5.16770768f);
    q = FMA32(q, z, 4.0587079f);
    p = FMA32(p, z, 3.14159264f);
    q = FMA32(q, z, -4.93480217f);
    s.real = r * p;
    c.real = FMA32(q, z, 1.0f);
    uint32_t is_swapped = 0u - (quarters & 1u), difference = (s.word ^ c.word) & is_swapped;
    first.word = (c.word ^ difference) ^ ((quarters + 1u) << 30 & 0x80000000u);
    second.word = (s.word ^ difference) ^ (quarters << 30 & 0x80000000u);
    *cosine = first.real;
    *sine = second.real;
}

/* The same for doubles: with s = f / (2 + f), log(1 + f) = 2 s + s^3 R(s^2); relative error of the fit 2e-18. */
static inline double radius64(double uniform) {
    bits64 u, m, exponent;
    u.real = uniform;
    /* the exponent plus 2048, as a double without a conversion from 64-bit integers, which few machines have */
    exponent.word = ((u.word - 0x3FE6A09E667F3BCDull + (2048ull << 52)) >> 52) | 0x4330000000000000ull;
    m.word = u.word - ((exponent.word - 2048ull) << 52);
    double f = m.real - 1.0, s = f / (f + 2.0), z = s * s, r = 0x1.2f02e6e5950cep-3;
    r = FMA64(r, z, 0x1.39a1fb7aea7d1p-3);
    r = FMA64(r, z, 0x1.74663c54f0e26p-3);
    r = FMA64(r, z, 0x1.c71c521644997p-3);
    r = FMA64(r, z, 0x1.24924941e0cddp-2);
    r = FMA64(r, z, 0x1.999999997fee8p-2);
    r = FMA64(r, z, 0x1.5555555555592p-1);
    r = FMA64(r, z, 2.0);
    return __builtin_sqrt(FMA64(s * -2.0, r, (exponent.real - (0x1p52 + 2048.0)) * -0x1.62e42fefa39efp+0));
}

/* Errors of the fits 4e-18 (sine) and 6e-17 (cosine). */
static inline void circle64(double turns, double *cosine, double *sine) {
    bits64 shifted, c, s, first, second;
    shifted.real = FMA64(turns, 2.0, 0x1.8p52);
    uint64_t quarters = shifted.word;
    double r = FMA64(shifted.real - 0x1.8p52, -0.5, turns), z = r * r;
    double p = 0x1.e3eed5c69136ap-12, q = 0x1.f3ef4246ace89p-10;
    p = FMA64(p, z, -0x1.e30063a00cba1p-8);
    q = FMA64(q, z, -0x1.a6ca009664634p-6);
    p = FMA64(p, z, 0x1.50782fca38904p-4);
    q = FMA64(q, z, 0x1.e1f4fbfc01b83p-3);
    p = FMA64(p, z, -0x1.32d2cce2d535dp-1);
    q = FMA64(q, z, -0x1.55d3c7dcb5f60p+0);
    p = FMA64(p, z, 0x1.466bc67758700p+1);
    q = FMA64(q, z, 0x1.03c1f081b14bep+2);
    p = FMA64(p, z, -0x1.4abbce625be41p+2);
    q = FMA64(q, z, -0x1.3bd3cc9be45a5p+2);
    p = FMA64(p, z, 0x1.921fb54442d18p+1);
    s.real = r * p;
    c.real = FMA64(q, z, 1.0);
    uint64_t is_swapped = 0u - (quarters & 1u), difference = (s.word ^ c.word) & is_swapped;
    first.word = (c.word ^ difference) ^ ((quarters + 1u) << 62 & 0x8000000000000000ull);
    second.word = (s.word ^ difference) ^ (quarters << 62 & 0x8000000000000000ull);
    *cosine = first.real;
    *sine = second.real;
}

/* -- a tile of lanes --------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t key0[TILE], key1[TILE], low[TILE], word0[TILE], word1[TILE], word2[TILE], word3[TILE];
    union { float as32[TILE]; double as64[TILE]; } normal0, normal1;
} tile;

/* Works on the first `count` lanes, a multiple of LANES. */
static void work(tile *restrict t, int kind, uint32_t high, int count) {
    count &= -LANES;
    if (kind == WORDS)
        for (int i = 0; i < count; i++) block(t->key0[i], t->key1[i], high, t->low[i], &t->word0[i], &t->word1[i]);
    else if (kind == NORMAL32)
        for (int i = 0; i < count; i++) {
            uint32_t word0, word1;
            float cosine, sine;
            block(t->key0[i], t->key1[i], high, t->low[i], &word0, &word1);
            float radius = radius32(((float)(int32_t)(word0 >> 1) + 0.5f) * 0x1p-31f);
            circle32((float)(int32_t)word1 * 0x1p-31f, &cosine, &sine);
            t->normal0.as32[i] = radius * cosine;
            t->normal1.as32[i] = radius * sine;
        }
    else {
        for (int i = 0; i < count; i++) {
            block(t->key0[i], t->key1[i], high, 2u * t->low[i], &t->word0[i], &t->word1[i]);
            block(t->key0[i], t->key1[i], high, 2u * t->low[i] + 1u, &t->word2[i], &t->word3[i]);
        }
        for (int i = 0; i < count; i++) {
            double cosine, sine;
            double uniform0 = ((double)(int32_t)t->word0[i] + 0x1p31) * 0x1p-32;
            double uniform1 = ((double)(int32_t)t->word2[i] + 0x1p31) * 0x1p-32;
            uniform0 += ((double)(int32_t)(t->word1[i] >> 11) + 0.5) * 0x1p-53;
            uniform1 += ((double)(int32_t)(t->word3[i] >> 11) + 0.5) * 0x1p-53;
            double radius = radius64(uniform0);
            circle64(2.0 * uniform1 - 1.0, &cosine, &sine);
            t->normal0.as64[i] = radius * cosine;
            t->normal1.as64[i] = radius * sine;
        }
    }
}

/* -- the grid ---------------------------------------------------------------------------------------------------- */

typedef struct {
    int kind;
    uint32_t high;
    int64_t num_inner;                                            /* the length of the inner axis */
    const int32_t *key, *counter;
    int64_t key_word, key_inner, key_outer, counter_inner, counter_outer; /* strides */
    char *out;
    int64_t out_word, out_inner, out_outer;                       /* strides */
} grid;

static void gather(uint32_t *restrict lanes, const int32_t *restrict from, int64_t stride, int count) {
    if (stride == 1) memcpy(lanes, from, sizeof(int32_t) * (size_t)count);
    else if (stride == 0) for (int i = 0; i < count; i++) lanes[i] = (uint32_t)from[0];
    else if (stride == 2) for (int i = 0; i < count; i++) lanes[i] = (uint32_t)from[2 * i];
    else for (int i = 0; i < count; i++) lanes[i] = (uint32_t)from[i * stride];
}

static void scatter32(char *out, int64_t place, int64_t stride, const void *lanes, int start, int count) {
    uint32_t *restrict to = (uint32_t *)out + place;
    const uint32_t *restrict from = (const uint32_t *)lanes + start;
    if (stride == 1) memcpy(to, from, sizeof(uint32_t) * (size_t)count);
    else for (int i = 0; i < count; i++) to[i * stride] = from[i];
}

static void scatter64(char *out, int64_t place, int64_t stride, const void *lanes, int start, int count) {
    uint64_t *restrict to = (uint64_t *)out + place;
    const uint64_t *restrict from = (const uint64_t *)lanes + start;
    if (stride == 1) memcpy(to, from, sizeof(uint64_t) * (size_t)count);
    else for (int i = 0; i < count; i++) to[i * stride] = from[i];
}

/* The blocks `start` up to `stop` of the grid, counted along the inner axis first. Rows share tiles, so that short ones
   fill them too. */
static void run(const grid *g, int64_t start, int64_t stop) {
    tile t;
    const void *first = g->kind == WORDS ? (void *)t.word0 : (void *)&t.normal0;
    const void *second = g->kind == WORDS ? (void *)t.word1 : (void *)&t.normal1;
    int64_t outer = start / g->num_inner, inner = start % g->num_inner;
    while (start < stop) {
        int count = stop - start < TILE ? (int)(stop - start) : TILE, padded = (count + LANES - 1) & -LANES;
        int64_t first_outer = outer, first_inner = inner;
        for (int lane = 0, length; lane < count; lane += length) {
            length = g->num_inner - inner < count - lane ? (int)(g->num_inner - inner) : count - lane;
            const int32_t *key = g->key + outer * g->key_outer + inner * g->key_inner;
            gather(t.key0 + lane, key, g->key_inner, length);
            gather(t.key1 + lane, key + g->key_word, g->key_inner, length);
            const int32_t *counter = g->counter + outer * g->counter_outer + inner * g->counter_inner;
            gather(t.low + lane, counter, g->counter_inner, length);
            inner += length;
            if (inner == g->num_inner) inner = 0, outer++;
        }
        for (int lane = count; lane < padded; lane++) t.key0[lane] = t.key1[lane] = t.low[lane] = 0;
        work(&t, g->kind, g->high, padded);
        for (int lane = 0, length; lane < count; lane += length) {
            length = g->num_inner - first_inner < count - lane ? (int)(g->num_inner - first_inner) : count - lane;
            int64_t place = first_outer * g->out_outer + first_inner * g->out_inner;
            if (g->kind == NORMAL64) {
                scatter64(g->out, place, g->out_inner, first, lane, length);
                scatter64(g->out, place + g->out_word, g->out_inner, second, lane, length);
            } else {
                scatter32(g->out, place, g->out_inner, first, lane, length);
                scatter32(g->out, place + g->out_word, g->out_inner, second, lane, length);
            }
            first_inner += length;
            if (first_inner == g->num_inner) first_inner = 0, first_outer++;
        }
        start += count;
    }
}

/* Fills out (K, 2, m) from key (K, 2) and counter (R, m), R being K, or 1 with cs0 = 0. Strides are in elements:
   ks0, ks1 of key, cs0, cs1 of counter, os0, os1, os2 of out. kind: WORDS (int32), NORMAL32 (float) or NORMAL64
   (double). */
void funcebm_threefry(int kind, int64_t K, int64_t m, const int32_t *key, int64_t ks0, int64_t ks1,
                      const int32_t *counter, int64_t cs0, int64_t cs1, int32_t domain,
                      void *out, int64_t os0, int64_t os1, int64_t os2, int num_threads) {
    int64_t total = K * m;
    if (K <= 0 || m <= 0) return;
    int keys_inner = K < SHORT || m < SHORT ? K >= m : os0 <= os2;
    grid g = {kind, (uint32_t)domain, keys_inner ? K : m, key, counter, ks1, keys_inner ? ks0 : 0, keys_inner ? 0 : ks0,
              keys_inner ? cs0 : cs1, keys_inner ? cs1 : cs0, out, os1, keys_inner ? os0 : os2, keys_inner ? os2 : os0};
#ifdef _OPENMP
    int64_t useful = 1 + total / SHARE;
    if (num_threads > 1 && useful > 1) {
        /* the whole team, as torch asks for it: another size would make OpenMP end threads and start them anew */
        #pragma omp parallel num_threads(num_threads)
        {
            int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
            if (parts > useful) parts = useful;
            int64_t length = (total + parts - 1) / parts;
            length = (length + TILE - 1) / TILE * TILE;
            int64_t start = part * length, stop = start + length < total ? start + length : total;
            if (start < stop) run(&g, start, stop);
        }
        return;
    }
#else
    (void)num_threads;
#endif
    run(&g, 0, total);
}

/* The same, its arguments as fifteen 64-bit integers: one argument costs a call through ctypes 2 microseconds less. */
void funcebm_threefry_packed(const int64_t *packed) {
    int64_t a[15];
    memcpy(a, packed, sizeof a);
    const int32_t *key = (const int32_t *)(intptr_t)a[3], *counter = (const int32_t *)(intptr_t)a[6];
    funcebm_threefry((int)a[0], a[1], a[2], key, a[4], a[5], counter, a[7], a[8], (int32_t)a[9],
                     (void *)(intptr_t)a[10], a[11], a[12], a[13], (int)a[14]);
}

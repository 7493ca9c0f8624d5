/* One heat-bath sweep of Ising spins on tori with even sides: all sites of one colour, then all of the other.

   The two colours lie apart: of row i, the first has the columns of the parity of i, the second the others. A site is up where
   its word, without the sign bit, is below the threshold of the sum of its four neighbours, which are all of the other colour:
   three in the same place of their rows, and one beside it. So a row is one loop without branches, over what lies in memory. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* The threshold of a sum, one of -4, -2, 0, 2, 4. */
static inline int32_t threshold_of(int32_t sum, int32_t t0, int32_t t1, int32_t t2, int32_t t3, int32_t t4) {
    return t4 ^ ((t4 ^ t3) & -(sum < 3)) ^ ((t3 ^ t2) & -(sum < 1)) ^ ((t2 ^ t1) & -(sum < -1)) ^ ((t1 ^ t0) & -(sum < -3));
}

/* Draws a row. `above`, `same` and `below` are rows of the other colour, `beside` is `same` shifted to the fourth neighbours; the
   thresholds of a sum are `by` after those of the one before, and one number for all sites or (is_own) one for each. */
static inline void draw_row(int8_t *restrict row, const int8_t *restrict above, const int8_t *restrict same,
                            const int8_t *restrict beside, const int8_t *restrict below, const int32_t *restrict words,
                            const int32_t *restrict t, int64_t by, int is_own, int64_t half, int64_t *bonds, int64_t *total,
                            int64_t *changed) {
    const int32_t *restrict a = t, *restrict b = t + by, *restrict c = t + 2 * by, *restrict d = t + 3 * by, *restrict e = t + 4 * by;
    int32_t in_row = 0, of_row = 0, others = 0;
    if (is_own)
        for (int64_t j = 0; j < half; j++) {
            int32_t sum = above[j] + same[j] + beside[j] + below[j];
            int32_t fresh = 2 * ((words[j] & 0x7FFFFFFF) < threshold_of(sum, a[j], b[j], c[j], d[j], e[j])) - 1;
            in_row += fresh * sum, of_row += fresh, others += fresh != row[j];
            row[j] = (int8_t)fresh;
        }
    else {
        const int32_t t0 = *a, t1 = *b, t2 = *c, t3 = *d, t4 = *e;
        for (int64_t j = 0; j < half; j++) {
            int32_t sum = above[j] + same[j] + beside[j] + below[j];
            int32_t fresh = 2 * ((words[j] & 0x7FFFFFFF) < threshold_of(sum, t0, t1, t2, t3, t4)) - 1;
            in_row += fresh * sum, of_row += fresh, others += fresh != row[j];
            row[j] = (int8_t)fresh;
        }
    }
    *bonds += in_row, *total += of_row, *changed += others;
}

/* Both colours; each row has a place before it and one behind it, where it is closed to a ring. */
static void sweep(int8_t *colours[2], int64_t height, int64_t half, const int32_t *words, const int32_t *t, int64_t by,
                  int64_t *counts) {
    const int64_t room = half + 2;
    int64_t bonds = 0, total = 0, changed = 0;
    for (int colour = 0; colour < 2; colour++) {
        int8_t *own = colours[colour], *other = colours[1 - colour];
        for (int64_t i = 0; i < height; i++) {
            int8_t *row = other + i * room;
            row[0] = row[half], row[half + 1] = row[1];
        }
        bonds = 0; /* each bond is one of a site of the second colour */
        for (int64_t i = 0; i < height; i++) {
            const int64_t first = (colour * height + i) * half;
            const int8_t *above = other + (i ? i - 1 : height - 1) * room + 1, *same = other + i * room + 1;
            const int8_t *below = other + (i < height - 1 ? i + 1 : 0) * room + 1;
            draw_row(own + i * room + 1, above, same, same + (((i + colour) & 1) ? 1 : -1), below, words + first,
                     t + (by > 1 ? first : 0), by, by > 1, half, &bonds, &total, &changed);
        }
    }
    counts[0] = bonds, counts[1] = total, counts[2] = changed;
}

#define LATTICE(NAME, REAL)                                                                                            \
static void NAME(const REAL *before, REAL *after, int8_t *room[2], int64_t height, int64_t half, const int32_t *words,  \
                 const int32_t *t, int64_t by, int64_t *counts) {                                                      \
    for (int64_t i = 0; i < height; i++)                                                                               \
        for (int side = 0; side < 2; side++) {                                                                         \
            int8_t *restrict row = room[(i + side) & 1] + i * (half + 2) + 1;                                          \
            const REAL *restrict from = before + 2 * i * half + side;                                                  \
            for (int64_t j = 0; j < half; j++) row[j] = (int8_t)(int32_t)from[2 * j];                                  \
        }                                                                                                              \
    sweep(room, height, half, words, t, by, counts);                                                                   \
    for (int64_t i = 0; i < height; i++) {                                                                             \
        const int8_t *restrict even = room[i & 1] + i * (half + 2) + 1, *restrict odd = room[(i + 1) & 1] + i * (half + 2) + 1; \
        REAL *restrict to = after + 2 * i * half;                                                                      \
        for (int64_t j = 0; j < half; j++) to[2 * j] = (REAL)even[j], to[2 * j + 1] = (REAL)odd[j];                    \
    }                                                                                                                  \
}

LATTICE(lattice32, float)
LATTICE(lattice64, double)

/* C lattices: spins (C, H, W) of 4 or 8 bytes, words (C, 2, H, W / 2) by colours, thresholds (T, 5, S) with T 1 or C, and S 1 or
   H W, by colours too; out are the spins after, and counts (C, 3): the sum over bonds, the sum of spins, how many changed. All
   are contiguous. Returns 1 where there is no memory. */
int funcebm_checkerboard(const int64_t *a) {
    const int64_t C = a[0], H = a[1], W = a[2], T = a[3], S = a[4], size = a[5], room = H * (W / 2 + 2);
    const char *before = (const char *)(intptr_t)a[6];
    const int32_t *words = (const int32_t *)(intptr_t)a[7], *thresholds = (const int32_t *)(intptr_t)a[8];
    char *after = (char *)(intptr_t)a[9];
    int64_t *counts = (int64_t *)(intptr_t)a[10];
    const int num_threads = (int)a[11];
    int failed = 0;
    (void)num_threads;
#ifdef _OPENMP
    #pragma omp parallel num_threads(num_threads) if (num_threads > 1 && C > 1 && C * H * W >= (1 << 20)) /* some milliseconds */
#endif
    {
        int8_t *memory = malloc((size_t)(2 * room)), *colours[2] = {memory, memory + room};
        if (!memory) failed = 1;
#ifdef _OPENMP
        #pragma omp for
#endif
        for (int64_t c = 0; c < C; c++) {
            const int64_t at = c * H * W;
            const int32_t *t = thresholds + (T > 1 ? c : 0) * 5 * S;
            if (!memory) continue;
            if (size == 4)
                lattice32((const float *)before + at, (float *)after + at, colours, H, W / 2, words + at, t, S, counts + 3 * c);
            else
                lattice64((const double *)before + at, (double *)after + at, colours, H, W / 2, words + at, t, S, counts + 3 * c);
        }
        free(memory);
    }
    return failed;
}

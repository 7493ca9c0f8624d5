/* The clusters of graphs that share their sites and edges but not which edges are open: union and find.

   Roots are joined towards the smaller one, and no site points to a larger one, so that one pass in the order of the sites
   ends with every site at the smallest of its cluster: the result depends on nothing but the clusters.

   Reference: Tarjan and van Leeuwen (1984), Journal of the ACM 31(2):245-281, for path halving. */

#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static inline int64_t find(int64_t *labels, int64_t site) {
    while (labels[site] != site) site = labels[site] = labels[labels[site]];
    return site;
}

/* labels (G, N) from edges (M, 2) and is_open (G, M), all contiguous. */
void funcebm_clusters(int64_t G, int64_t M, int64_t N, const int64_t *edges, const uint8_t *is_open, int64_t *labels,
                      int64_t num_threads) {
    (void)num_threads;
#ifdef _OPENMP
    #pragma omp parallel for num_threads((int)num_threads) if (num_threads > 1 && G > 1 && G * M >= (1 << 19)) /* milliseconds */
#endif
    for (int64_t g = 0; g < G; g++) {
        const uint8_t *open = is_open + g * M;
        int64_t *own = labels + g * N;
        for (int64_t site = 0; site < N; site++) own[site] = site;
        for (int64_t edge = 0; edge < M; edge++) {
            if (!open[edge]) continue;
            int64_t a = find(own, edges[2 * edge]), b = find(own, edges[2 * edge + 1]);
            if (a < b) own[b] = a;
            else own[a] = b;
        }
        for (int64_t site = 0; site < N; site++) own[site] = own[own[site]];
    }
}

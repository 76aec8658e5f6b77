/* Runs every entry point of the kernels over odd shapes, in buffers of exactly their size, under the sanitizers: see test_kernels.py. */

#include "d90_kernels.c"

#include <pthread.h>
#include <stdio.h>

typedef struct {
    void (*worker)(void *);
    void *job;
} call_t;

static void *thread(void *data) {
    call_t *call = data;
    call->worker(call->job);
    return NULL;
}

/* Stands for GOMP_parallel. */
static void parallel(void (*worker)(void *), void *job, unsigned threads, unsigned flags) {
    pthread_t others[8];
    call_t call = {worker, job};
    (void)flags;
    for (unsigned i = 1; i < threads; i++)
        if (pthread_create(&others[i], NULL, thread, &call)) abort();
    worker(job);
    for (unsigned i = 1; i < threads; i++) pthread_join(others[i], NULL);
}

static size_t width_of(int type) { return type == FP32 ? 4 : 2; }

static void *filled(int64_t n, int type) {
    unsigned char *p = malloc((size_t)n * width_of(type) + (n == 0));
    for (size_t i = 0; i < (size_t)n * width_of(type); i++) p[i] = (unsigned char)(i * 37 + 11); /* all kinds of values, NaN too */
    return p;
}

typedef int (*write_fn)(const void *, const target_t *, int64_t);
typedef int (*fold_fn)(const void *, const gradient_t *, double *);

/* One map over tensors of these sizes, in all types; it is called with exactly the rows that it has from `first` on. */
static void try_map(const void *map, write_fn write, fold_fn fold, int64_t z_size, int64_t first, const int64_t *sizes, int64_t count) {
    float *z = malloc((size_t)z_size * sizeof(float));
    double *gradient = calloc((size_t)z_size, sizeof(double));
    for (int64_t j = 0; j < z_size; j++) z[j] = (float)j;
    for (int from = FP32; from <= FP16; from++)
        for (int to = FP32; to <= FP16; to++) {
            target_t *targets = calloc((size_t)count, sizeof(target_t));
            int64_t row = first;
            for (int64_t i = 0; i < count; row += sizes[i++])
                targets[i] = (target_t){filled(sizes[i], from), filled(sizes[i], to), z, sizes[i], row, row, 0.5, from, to};
            if (write(map, targets, count)) abort();
            for (int64_t i = 0; i < count; i++) free((void *)targets[i].base), free(targets[i].out);
            free(targets);
        }
    for (int type = FP32; type <= FP16; type++) {
        int64_t row = first;
        for (int64_t i = 0; i < count; row += sizes[i++]) {
            void *g = filled(sizes[i], type);
            gradient_t whole = {g, sizes[i], row, 0.5, NULL, 0, 0, type, 0};
            if (fold(map, &whole, gradient)) abort();
            free(g);
            for (int64_t width = sizes[i] > 6000 ? 187 : 1; width <= sizes[i]; width = width * 5 + 2) {
                int64_t rows = sizes[i] / width, kept = (rows + 1) / 2, *which = malloc((size_t)kept * sizeof(int64_t));
                for (int64_t r = 0; r < kept; r++) which[r] = 2 * r;
                void *values = filled(kept * width, type);
                gradient_t sparse = {values, rows * width, row, 0.5, which, kept, width, type, 0};
                if (fold(map, &sparse, gradient)) abort();
                free(values), free(which);
            }
        }
    }
    free(z), free(gradient);
}

static int fastfood_write(const void *map, const target_t *t, int64_t n) { return d90_fastfood_write(map, t, n); }
static int fastfood_fold(const void *map, const gradient_t *g, double *z) { return d90_fastfood_fold(map, g, z); }
static int onehot_write(const void *map, const target_t *t, int64_t n) { return d90_onehot_write(map, t, n); }
static int onehot_fold(const void *map, const gradient_t *g, double *z) { return d90_onehot_fold(map, g, z); }
static int dense_write(const void *map, const target_t *t, int64_t n) { return d90_dense_write(map, t, n); }
static int dense_fold(const void *map, const gradient_t *g, double *z) { return d90_dense_fold(map, g, z); }

/* Dense over tensors cut to `entries` entries, its Gaussians drawn again, then kept. */
static void try_dense(int path, int64_t d, int gaussian, int64_t entries, const int64_t *all, int64_t count) {
    int64_t sizes[16], rows = 0;
    for (int64_t i = 0; i < count; i++) rows += sizes[i] = least(all[i], entries / d);
    dense_t map = {~0ull, d, NULL, gaussian, path, 3, 0, parallel, 1 << 30};
    try_map(&map, dense_write, dense_fold, d, gaussian ? 0 : 5, sizes, count);
    if (!gaussian) return;
    float *matrix = calloc((size_t)(rows * d + 16), sizeof(float));
    d90_dense_fill(&map, matrix, rows);
    map.matrix = matrix;
    try_map(&map, dense_write, dense_fold, d, 0, sizes, count);
    free(matrix);
}

static void try_all(int path, int64_t d, int gaussian, const int64_t *sizes, int64_t count) {
    int64_t padded = 1, m, one = 1;
    while (padded < d) padded *= 2;
    m = padded < BLOCK ? padded : BLOCK;
    int64_t *pi = malloc((size_t)d * sizeof(int64_t));
    float *weight = malloc((size_t)d * sizeof(float));
    for (int64_t j = 0; j < d; j++) pi[j] = d - 1 - j, weight[j] = 1;
    fastfood_t fast = {~0ull, m, padded / m, gaussian, path, 3, 0, parallel, d % 2 ? 0 : 1 << 30};
    onehot_t hot = {~0ull, d, 1, &one, pi, weight, !gaussian, path, 3, 0, parallel, d % 2 ? 0 : 1 << 30};
    try_map(&fast, fastfood_write, fastfood_fold, padded, 77, sizes, count);
    try_map(&hot, onehot_write, onehot_fold, d, 77, sizes, count);
    try_dense(path, d, gaussian, 20000, sizes, count);
    free(pi), free(weight);
}

int main(void) {
    const int64_t sizes[] = {0, 1, 3, 1023, 0, 1024, 1025, 5000, 70001, 140000}, ds[] = {1, 2, 5, 9, 17, 100, 200, 300, 1000, 1024, 1500, 9000};
    for (int path = PORTABLE; path <= d90_best_path(); path++)
        for (size_t i = 0; i < sizeof ds / sizeof *ds; i++)
            for (int gaussian = 0; gaussian < 2; gaussian++) try_all(path, ds[i], gaussian, sizes, (int64_t)(sizeof sizes / sizeof *sizes));
    const int64_t blocks[] = {0, 1, (1ll << 40) + 3}, long_one[] = {3000};
    uint32_t *words = malloc((3 * 5 * 4 * 37 + 64) * sizeof(uint32_t));
    for (int path = PORTABLE; path <= d90_best_path(); path++) {
        d90_words(path, 7, 1, blocks, 3, 5, 37, words);
        for (int gaussian = 0; gaussian < 2; gaussian++) try_dense(path, 1030, gaussian, 1030 * 3000, long_one, 1); /* in several strips */
    }
    free(words);
    puts("clean");
    return 0;
}

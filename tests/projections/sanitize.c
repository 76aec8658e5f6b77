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

static void try_all(int path, int64_t d, int gaussian, const int64_t *sizes, int64_t count) {
    int64_t padded = 1, m, columns = d, one = 1;
    while (padded < d) padded *= 2;
    m = padded < BLOCK ? padded : BLOCK;
    int64_t *pi = malloc((size_t)d * sizeof(int64_t));
    float *weight = malloc((size_t)d * sizeof(float)), *z = malloc((size_t)padded * sizeof(float));
    double *gradient = calloc((size_t)padded, sizeof(double));
    for (int64_t j = 0; j < d; j++) pi[j] = d - 1 - j, weight[j] = 1;
    for (int64_t j = 0; j < padded; j++) z[j] = (float)j;
    fastfood_t fast = {~0ull, m, padded / m, gaussian, path, 3, 0, parallel, d % 2 ? 0 : 1 << 30};
    onehot_t hot = {~0ull, columns, 1, &one, pi, weight, !gaussian, path, 3, 0, parallel, d % 2 ? 0 : 1 << 30};
    for (int from = FP32; from <= FP16; from++)
        for (int to = FP32; to <= FP16; to++) {
            target_t *targets = calloc((size_t)count, sizeof(target_t));
            int64_t row = 5;
            for (int64_t i = 0; i < count; row += sizes[i++])
                targets[i] = (target_t){filled(sizes[i], from), filled(sizes[i], to), z, sizes[i], row, row, 0.5, from, to};
            if (d90_fastfood_write(&fast, targets, count) || d90_onehot_write(&hot, targets, count)) abort();
            for (int64_t i = 0; i < count; i++) free((void *)targets[i].base), free(targets[i].out);
            free(targets);
        }
    for (int type = FP32; type <= FP16; type++)
        for (int64_t i = 0; i < count; i++) {
            void *g = filled(sizes[i], type);
            gradient_t dense = {g, sizes[i], 77, 0.5, NULL, 0, 0, type, 0};
            if (d90_fastfood_fold(&fast, &dense, gradient) || d90_onehot_fold(&hot, &dense, gradient)) abort();
            free(g);
            for (int64_t width = 1; width <= sizes[i]; width = width * 5 + 2) {
                int64_t rows = sizes[i] / width, kept = (rows + 1) / 2, *which = malloc((size_t)kept * sizeof(int64_t));
                for (int64_t r = 0; r < kept; r++) which[r] = 2 * r;
                void *values = filled(kept * width, type);
                gradient_t sparse = {values, rows * width, 77, 0.5, which, kept, width, type, 0};
                if (d90_fastfood_fold(&fast, &sparse, gradient) || d90_onehot_fold(&hot, &sparse, gradient)) abort();
                free(values), free(which);
            }
        }
    free(pi), free(weight), free(z), free(gradient);
}

int main(void) {
    const int64_t sizes[] = {0, 1, 3, 1023, 0, 1024, 1025, 5000, 70001, 140000}, ds[] = {1, 2, 5, 9, 17, 100, 200, 300, 1000, 1024, 1500, 9000};
    for (int path = PORTABLE; path <= d90_best_path(); path++)
        for (size_t i = 0; i < sizeof ds / sizeof *ds; i++)
            for (int gaussian = 0; gaussian < 2; gaussian++) try_all(path, ds[i], gaussian, sizes, (int64_t)(sizeof sizes / sizeof *sizes));
    int64_t blocks[] = {0, 1, (1ll << 40) + 3};
    uint32_t *words = malloc(3 * 4 * 37 * sizeof(uint32_t));
    for (int path = PORTABLE; path <= d90_best_path(); path++) d90_words(path, 7, 1, blocks, 3, 37, words);
    free(words);
    puts("clean");
    return 0;
}

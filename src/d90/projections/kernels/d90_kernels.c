/* Fused kernels of the projections, version 1: the same maps as dense.py, fastfood.py, onehot.py and rounding.py, in one pass over memory.

   maps.h      what is handed over, and how work is shared out
   path.h      the vector part, written once, for a vector of D90_LANES floats, and compiled once per path: with 16 lanes (AVX-512),
               8 (AVX2) and 4 (portable: SSE2, NEON, anything). The path is an argument of every entry point. Its rooms:
               draws.h, rounding.h; hadamard.h and fastfood.h; onehot.h; dense.h
   this file   the paths, and the entry points

   There is no OpenMP here. The caller hands over `parallel`, which is the GOMP_parallel of the runtime torch itself uses, so there is
   one thread pool in the process; without it the work is done on the calling thread. Work is cut into items by sizes alone and taken
   from a counter, and sums over items are made in item order, so that no result depends on the number of threads. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define D90_X86 1
#else
#define D90_X86 0
#endif

#ifndef D90_SOURCE
#define D90_SOURCE 0 /* the CRC-32 of the sources, given by build.py */
#endif

#include "maps.h"

#define D90_LANES 4
#define FN(name) name##_portable
#include "path.h"
#undef FN
#undef D90_LANES

#if D90_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define D90_LANES 8
#define FN(name) name##_avx2
#include "path.h"
#undef FN
#undef D90_LANES
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define D90_LANES 16
#define FN(name) name##_avx512
#include "path.h"
#undef FN
#undef D90_LANES
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#define PICK(path, name) ((path) == AVX512 ? name##_avx512 : (path) == AVX2 ? name##_avx2 : name##_portable)
#else
#define PICK(path, name) ((void)(path), name##_portable)
#endif

/* --- entry points ------------------------------------------------------------------------------------------------- */

EXPORT uint32_t d90_source(void) { return D90_SOURCE; }

/* The best path this machine has. */
EXPORT int d90_best_path(void) {
#if D90_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return AVX2;
#endif
    return PORTABLE;
}

/* philox.words of `rows` consecutive blocks from each block given, for the tests: (n, rows, 4 groups) words, and room for 64 more. */
EXPORT void d90_words(int path, uint64_t seed, uint64_t stream, const int64_t *blocks, int64_t n, int64_t rows, int64_t groups,
                      uint32_t *out) {
    for (int64_t i = 0; i < n; i++)
        PICK(path, words)(seed, stream, (uint64_t)blocks[i], rows, 0, groups, out + i * rows * 4 * groups);
}

EXPORT int d90_fastfood_write(const fastfood_t *map, const target_t *targets, int64_t count) {
    void (*worker)(void *) = PICK(map->path, fastfood_write_worker);
    return write_all(map, targets, count, WRITE_ITEM, map->parallel, map->threads, map->stream_bytes, worker);
}

EXPORT int d90_onehot_write(const onehot_t *map, const target_t *targets, int64_t count) {
    void (*worker)(void *) = PICK(map->path, onehot_write_worker);
    return write_all(map, targets, count, WRITE_ITEM, map->parallel, map->threads, map->stream_bytes, worker);
}

EXPORT int d90_dense_write(const dense_t *map, const target_t *targets, int64_t count) {
    void (*worker)(void *) = PICK(map->path, dense_write_worker);
    return write_all(map, targets, count, BLOCK, map->parallel, map->threads, map->stream_bytes, worker);
}

/* Draw the matrix: rows x d Gaussians. */
EXPORT void d90_dense_fill(const dense_t *map, float *out, int64_t rows) {
    fill_job job = {map, out, rows, 0};
    run(map->parallel, map->threads, PICK(map->path, dense_fill_worker), &job);
}

/* Add the sum of an item. */
static void reduce(const fold_job *job, int64_t part, int64_t chunk) {
    int64_t m = job->map->m;
    double *to = job->z_gradient + chunk * m, scale = job->grad->scale;
    for (int64_t j = 0; j < m; j++) to[j] += scale * job->parts[part * m + j];
}

static int fold_whole(fold_job *job) {
    const fastfood_t *map = job->map;
    job->blocks = ceil_div(job->grad->size, map->m);
    job->residues = least(map->chunks, job->blocks);
    /* Blocks of a few chunks are summed by one item, or by a few strips of them when chunks are few. */
    int64_t groups = ceil_div(job->residues, FOLD_GROUP);
    int64_t wanted = ceil_div(FOLD_ITEMS, groups), enough = job->blocks / (job->residues * FOLD_LEAST);
    job->strips = least(wanted, enough < 1 ? 1 : enough);
    job->items = groups * job->strips;
    if (job->strips > 1 && !(job->parts = malloc((size_t)(job->residues * job->strips * map->m) * sizeof(double)))) return 1;
    int threads = (int)least(map->threads, job->blocks * map->m < ALONE ? 1 : job->items);
    run(map->parallel, threads, PICK(map->path, fastfood_fold_worker), job);
    for (int64_t r = 0; job->parts && r < job->residues; r++)
        for (int64_t t = 0; t < job->strips; t++)
            reduce(job, t * job->residues + r, (job->grad->first_block + r) % map->chunks);
    free(job->parts);
    return 0;
}

/* The blocks that hold some row, in order, each once; with out == NULL only their number. */
static int64_t touched(const gradient_t *grad, int64_t m, int64_t *out) {
    int64_t count = 0, next = 0;
    for (int64_t i = 0; i < grad->row_count; i++) {
        int64_t low = grad->rows[i] * grad->width / m, high = ((grad->rows[i] + 1) * grad->width - 1) / m;
        for (int64_t b = low < next ? next : low; b <= high; b++, count++)
            if (out) out[count] = b;
        next = high + 1 > next ? high + 1 : next;
    }
    return count;
}

static int fold_rows(fold_job *job) {
    const fastfood_t *map = job->map;
    const gradient_t *grad = job->grad;
    if (grad->width == 0 || grad->row_count == 0) return 0;
    int64_t n = touched(grad, map->m, NULL), chunks = map->chunks, longest = ceil_div(n, FOLD_ITEMS), most = FOLD_ITEMS + least(chunks, n);
    int64_t *memory = malloc((size_t)(2 * n + chunks + 1 + 2 * (most + 1)) * sizeof(int64_t));
    if (!memory) return 1;
    int64_t *found = memory, *list = found + n, *begin = list + n, *item_low = begin + chunks + 1, *item_chunk = item_low + most + 1;
    touched(grad, map->m, found);
    memset(begin, 0, (size_t)(chunks + 1) * sizeof(int64_t)); /* counting sort by chunk */
    for (int64_t i = 0; i < n; i++) begin[(grad->first_block + found[i]) % chunks + 1]++;
    for (int64_t c = 0; c < chunks; c++) begin[c + 1] += begin[c];
    for (int64_t i = 0; i < n; i++) list[begin[(grad->first_block + found[i]) % chunks]++] = found[i];
    job->items = 0;
    for (int64_t c = 0, low = 0; c < chunks; low = begin[c++]) /* begin[c] is now the end of chunk c */
        for (; low < begin[c]; low += longest) {
            item_low[job->items] = low;
            item_chunk[job->items] = c;
            item_low[++job->items] = least(low + longest, begin[c]);
        }
    job->list = list, job->item_low = item_low, job->item_chunk = item_chunk;
    job->parts = malloc((size_t)(job->items * map->m) * sizeof(double));
    if (!job->parts) {
        free(memory);
        return 1;
    }
    run(map->parallel, (int)least(map->threads, n * map->m < ALONE ? 1 : job->items), PICK(map->path, fastfood_fold_worker), job);
    for (int64_t i = 0; i < job->items; i++) reduce(job, i, item_chunk[i]);
    free(job->parts);
    free(memory);
    return 0;
}

/* z_gradient += scale R^T g. Returns 0, or 1 when memory ran out (nothing is added then). */
EXPORT int d90_fastfood_fold(const fastfood_t *map, const gradient_t *grad, double *z_gradient) {
    fold_job job = {.map = map, .grad = grad, .z_gradient = z_gradient};
    if (grad->size == 0) return 0;
    return grad->rows ? fold_rows(&job) : fold_whole(&job);
}

/* z_gradient += scale R^T g, as above. */
EXPORT int d90_onehot_fold(const onehot_t *map, const gradient_t *grad, double *z_gradient) {
    /* With few rows, or a few rows given, they are added where they belong; else strips sum for themselves first. */
    int64_t strips = grad->rows ? 1 : least(FOLD_STRIPS, grad->size / (map->d * 4 > 64 * BLOCK ? map->d * 4 : 64 * BLOCK));
    strip_job job = {map, grad, NULL, strips, 0};
    if (grad->rows || strips <= 1) {
        PICK(map->path, onehot_fold_here)(map, grad, z_gradient);
        return 0;
    }
    if (sum_strips(&job, map->d, map->parallel, map->threads, PICK(map->path, onehot_fold_worker))) return 1;
    for (int64_t j = 0; j < map->d; j++) z_gradient[map->pi[j]] += (double)map->weight[map->pi[j]] * grad->scale * job.parts[j];
    free(job.parts);
    return 0;
}

/* z_gradient += scale R^T g, as above. */
EXPORT int d90_dense_fold(const dense_t *map, const gradient_t *grad, double *z_gradient) {
    int64_t entries = (grad->rows ? grad->row_count * grad->width : grad->size) * map->d;
    strip_job job = {map, grad, NULL, least(FOLD_STRIPS, ceil_div(entries, STRIP)), 0};
    if (entries == 0) return 0;
    if (sum_strips(&job, map->d, map->parallel, map->threads, PICK(map->path, dense_fold_worker))) return 1;
    for (int64_t j = 0; j < map->d; j++) z_gradient[j] += grad->scale * job.parts[j];
    free(job.parts);
    return 0;
}

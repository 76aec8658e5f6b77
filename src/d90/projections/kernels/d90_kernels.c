/* Fused kernels of the projections, version 1: the same maps as fastfood.py, onehot.py and rounding.py, in one pass over memory.

   The vector part is written once, for a vector of D90_LANES floats, and compiled once per path: this file includes itself with
   16 lanes (AVX-512), 8 (AVX2) and 4 (portable: SSE2, NEON, anything). The path is an argument of every entry point.

   There is no OpenMP here. The caller hands over `parallel`, which is the GOMP_parallel of the runtime torch itself uses, so there is
   one thread pool in the process; without it the work is done on the calling thread. Work is cut into items by sizes alone and taken
   from a counter, and sums over items are made in item order, so that no result depends on the number of threads. */

#ifndef D90_LANES

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
#define D90_SOURCE 0 /* the CRC-32 of this file, given by build.py */
#endif
#define BLOCK 1024
#define ALWAYS static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#define EXPORT __attribute__((visibility("default")))

enum { FP32 = 0, BF16 = 1, FP16 = 2 };
enum { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };
enum { INNER = 1, OUTER = 2, COLUMNS = 7, SIGNS = 8, DITHER = 10 }; /* streams, philox.py */

typedef uint32_t bits_t __attribute__((may_alias)); /* the bits of a float, where it lies */
typedef void (*parallel_fn)(void (*)(void *), void *, unsigned, unsigned);

/* One tensor to write: out = base + factor R z. `factor` includes the projection's own s. */
typedef struct {
    const void *base;
    void *out;
    const float *z;
    int64_t size, first_block, dither_block; /* for one-hot, first_block is the first global row */
    double factor;
    int32_t base_type, out_type;
} target_t;

typedef struct {
    uint64_t seed;
    int64_t m, chunks;
    int32_t gaussian, path, threads, unused;
    parallel_fn parallel;
    int64_t stream_bytes; /* a call that writes more than this writes past the caches */
} fastfood_t;

/* q = (z weight)[pi], made once a call, stands for z: row (k, i) takes entry (a_k i + b_k) mod d of it. */
typedef struct {
    uint64_t seed;
    int64_t d, coprime_count;
    const int64_t *coprime, *pi;
    const float *weight;
    int32_t signs, path, threads, unused;
    parallel_fn parallel;
    int64_t stream_bytes;
} onehot_t;

/* A gradient: dense (rows == NULL) or the rows `rows` (sorted, distinct) of a matrix of this width, the others zero. */
typedef struct {
    const void *g;
    int64_t size, first_block;
    double scale;
    const int64_t *rows;
    int64_t row_count, width;
    int32_t type, unused;
} gradient_t;

#define WRITE_ITEM (64 * BLOCK) /* elements in an item of `write` */
#define FOLD_ITEMS 64
#define ALONE (32 * BLOCK) /* a smaller gradient is not worth waking the other threads */
#define FOLD_STRIPS 16    /* the same for one-hot */
#define FOLD_GROUP 4     /* neighbouring chunks an item sums side by side, so that it reads memory in longer runs */
#define FOLD_LEAST 64    /* blocks worth an item of their own */
#define FOLD_PAIRWISE 16 /* blocks summed in fp32 before they are added to the fp64 sum */
#define COUNTERS 64     /* Philox counters drawn at once for the signs */

typedef struct {
    const void *map; /* fastfood_t or onehot_t */
    const target_t *targets;
    const int64_t *item_start; /* first item of each target, and the total */
    int64_t target_count, items, next, streamed;
} write_job;

typedef struct {
    const fastfood_t *map;
    const gradient_t *grad;
    double *z_gradient, *parts;
    int64_t blocks, residues, strips, items, next;
    /* sparse rows: the blocks touched, by chunk, and the items over them */
    const int64_t *list, *item_low, *item_chunk;
} fold_job;

typedef struct {
    const onehot_t *map;
    const gradient_t *grad;
    double *z_gradient, *parts;
    int64_t strips, next;
} onehot_job;

static void run(parallel_fn parallel, int threads, void (*worker)(void *), void *job) {
    if (parallel && threads > 1)
        parallel(worker, job, (unsigned)threads, 0);
    else
        worker(job);
}

static int64_t take(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
ALWAYS int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
ALWAYS int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* H x of one short vector (m < 16). */
static void short_fwht(float *x, int64_t m) {
    for (int64_t half = 1; half < m; half *= 2)
        for (int64_t i = 0; i < m; i++)
            if (!(i & half)) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

/* Write all tensors in one pass. Returns 0, or 1 when memory ran out (nothing is written then). */
static int write_all(const void *map, const target_t *targets, int64_t count, parallel_fn parallel, int threads, int64_t stream_bytes,
                     void (*worker)(void *)) {
    int64_t *item_start = malloc((size_t)(count + 1) * sizeof(int64_t)), bytes = 0;
    if (!item_start) return 1;
    item_start[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        item_start[i + 1] = item_start[i] + ceil_div(targets[i].size, WRITE_ITEM);
        bytes += targets[i].size * (targets[i].out_type == FP32 ? 4 : 2);
    }
    write_job job = {map, targets, item_start, count, item_start[count], 0, bytes > stream_bytes};
    run(parallel, (int)least(threads, job.items), worker, &job);
    free(item_start);
    return 0;
}

/* The target that an item belongs to, and its first element. */
static const target_t *find_target(const write_job *job, int64_t item, int64_t *low) {
    int64_t a = 0, b = job->target_count; /* item_start[a] <= item < item_start[b] */
    while (b - a > 1) {
        int64_t middle = (a + b) / 2;
        *(job->item_start[middle] <= item ? &a : &b) = middle;
    }
    *low = (item - job->item_start[a]) * WRITE_ITEM;
    return job->targets + a;
}

#define D90_LANES 4
#define FN(name) name##_portable
#include "d90_kernels.c"
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
#include "d90_kernels.c"
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
#include "d90_kernels.c"
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

/* philox.words: (n, 4 groups) words of the blocks, for the tests. */
EXPORT void d90_words(int path, uint64_t seed, uint64_t stream, const int64_t *blocks, int64_t n, int64_t groups, uint32_t *out) {
    PICK(path, words)(seed, stream, blocks, n, groups, out);
}

EXPORT int d90_fastfood_write(const fastfood_t *map, const target_t *targets, int64_t count) {
    return write_all(map, targets, count, map->parallel, map->threads, map->stream_bytes, PICK(map->path, write_worker));
}

EXPORT int d90_onehot_write(const onehot_t *map, const target_t *targets, int64_t count) {
    return write_all(map, targets, count, map->parallel, map->threads, map->stream_bytes, PICK(map->path, onehot_write_worker));
}

/* Add the sum of an item. */
static void reduce(const fold_job *job, int64_t part, int64_t chunk) {
    int64_t m = job->map->m;
    double *to = job->z_gradient + chunk * m, scale = job->grad->scale;
    for (int64_t j = 0; j < m; j++) to[j] += scale * job->parts[part * m + j];
}

static int fold_dense(fold_job *job) {
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
    run(map->parallel, threads, PICK(map->path, fold_worker), job);
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
    run(map->parallel, (int)least(map->threads, n * map->m < ALONE ? 1 : job->items), PICK(map->path, fold_worker), job);
    for (int64_t i = 0; i < job->items; i++) reduce(job, i, item_chunk[i]);
    free(job->parts);
    free(memory);
    return 0;
}

/* z_gradient += scale R^T g. Returns 0, or 1 when memory ran out (nothing is added then). */
EXPORT int d90_fastfood_fold(const fastfood_t *map, const gradient_t *grad, double *z_gradient) {
    fold_job job = {.map = map, .grad = grad, .z_gradient = z_gradient};
    if (grad->size == 0) return 0;
    return grad->rows ? fold_rows(&job) : fold_dense(&job);
}

/* z_gradient += scale R^T g, as above. */
EXPORT int d90_onehot_fold(const onehot_t *map, const gradient_t *grad, double *z_gradient) {
    /* With few rows, or a few rows given, they are added where they belong; else strips sum for themselves first. */
    int64_t strips = grad->rows ? 1 : least(FOLD_STRIPS, grad->size / (map->d * 4 > 64 * BLOCK ? map->d * 4 : 64 * BLOCK));
    onehot_job job = {map, grad, z_gradient, NULL, strips, 0};
    if (grad->rows || strips <= 1) {
        PICK(map->path, onehot_fold_here)(&job);
        return 0;
    }
    job.parts = malloc((size_t)(strips * map->d) * sizeof(double));
    if (!job.parts) return 1;
    run(map->parallel, (int)least(map->threads, strips), PICK(map->path, onehot_fold_worker), &job);
    for (int64_t strip = 1; strip < strips; strip++)
        for (int64_t j = 0; j < map->d; j++) job.parts[j] += job.parts[strip * map->d + j];
    for (int64_t j = 0; j < map->d; j++) z_gradient[map->pi[j]] += (double)map->weight[map->pi[j]] * grad->scale * job.parts[j];
    free(job.parts);
    return 0;
}

#else /* ============================================ the vector part ================================================ */

#define L D90_LANES

typedef float FN(vf) __attribute__((vector_size(4 * L)));
typedef uint32_t FN(vu) __attribute__((vector_size(4 * L)));
typedef uint64_t FN(vq) __attribute__((vector_size(4 * L)));
typedef float FN(vf_at) __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef uint32_t FN(vu_at) __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef uint64_t FN(vq_at) __attribute__((vector_size(4 * L), aligned(8), may_alias));
#define vf FN(vf)
#define vu FN(vu)
#define vq FN(vq)
#define LOAD(p) ((vf) * (const FN(vf_at) *)(p))
#define STORE(p, x) (*(FN(vf_at) *)(p) = (x))

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vu){__VA_ARGS__})
#endif

#if L == 16
#define RADIX 16
#define LANES(x) x(0), x(1), x(2), x(3), x(4), x(5), x(6), x(7), x(8), x(9), x(10), x(11), x(12), x(13), x(14), x(15)
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define ZIP2_LOW 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23
#define ZIP2_HIGH 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31
#define HIGH32(x) ((vq)_mm512_shuffle_epi32((__m512i)(x), (_MM_PERM_ENUM)0xF5)) /* a shift would share the multiplier's port */
#define MUL32(a, b) ((vq)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define SQRT(x) ((vf)_mm512_sqrt_ps((__m512)(x)))
#define STREAM(p, x) _mm512_stream_ps(p, (__m512)(x))
#elif L == 8
#define RADIX 8
#define LANES(x) x(0), x(1), x(2), x(3), x(4), x(5), x(6), x(7)
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define ZIP2_LOW 0, 1, 8, 9, 2, 3, 10, 11
#define ZIP2_HIGH 4, 5, 12, 13, 6, 7, 14, 15
#define HIGH32(x) ((vq)_mm256_shuffle_epi32((__m256i)(x), 0xF5))
#define MUL32(a, b) ((vq)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define SQRT(x) ((vf)_mm256_sqrt_ps((__m256)(x)))
#define STREAM(p, x) _mm256_stream_ps(p, (__m256)(x))
#else
#define RADIX 8
#define LANES(x) x(0), x(1), x(2), x(3)
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#define ZIP2_LOW 0, 1, 4, 5
#define ZIP2_HIGH 2, 3, 6, 7
#define HIGH32(x) ((x) >> 32)
#define MUL32(a, b) (((a) & 0xFFFFFFFFu) * ((b) & 0xFFFFFFFFu))
#define SQRT(x) ((vf){sqrtf((x)[0]), sqrtf((x)[1]), sqrtf((x)[2]), sqrtf((x)[3])})
#define STREAM(p, x) STORE(p, x)
#endif

/* --- Philox4x32-10 ------------------------------------------------------------------------------------------------
   A counter's four words are kept in the low halves of 64-bit lanes (the high halves hold rubbish that no product reads), the even
   counters in one vector and the odd ones in another: no shuffles, and the results zip together in order. */

ALWAYS vq FN(every)(uint64_t x) { return (vq){0} + x; }

ALWAYS void FN(philox)(uint64_t seed, vq group_e, vq group_o, vq block_e, vq block_o, vq stream_e, vq stream_o, vu out[4]) {
    const vq m0 = FN(every)(0xD2511F53), m1 = FN(every)(0xCD9E8D57);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    vq e0 = group_e, e1 = block_e, e2 = block_e >> 32, e3 = stream_e;
    vq o0 = group_o, o1 = block_o, o2 = block_o >> 32, o3 = stream_o;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        vq key0 = FN(every)(k0), key1 = FN(every)(k1);
        vq pe = MUL32(e0, m0), qe = MUL32(e2, m1), po = MUL32(o0, m0), qo = MUL32(o2, m1);
        e0 = HIGH32(qe) ^ e1 ^ key0, e1 = qe, e2 = HIGH32(pe) ^ e3 ^ key1, e3 = pe;
        o0 = HIGH32(qo) ^ o1 ^ key0, o1 = qo, o2 = HIGH32(po) ^ o3 ^ key1, o3 = po;
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    const vq low = FN(every)(0xFFFFFFFF);
    out[0] = (vu)((e0 & low) | (o0 << 32)), out[1] = (vu)((e1 & low) | (o1 << 32));
    out[2] = (vu)((e2 & low) | (o2 << 32)), out[3] = (vu)((e3 & low) | (o3 << 32));
}

/* Groups first ... first + L - 1 of one block: out[w] holds word w of each. */
ALWAYS void FN(groups)(uint64_t seed, uint64_t stream, uint64_t block, uint64_t first, vu out[4]) {
#define EVEN(i) (i) % 2 ? 0 : (i)
    vu lane = {LANES(EVEN)};
    vq even = (vq)lane + first; /* a pair of 32-bit lanes (2 i, 0) is the 64-bit lane 2 i */
    FN(philox)(seed, even, even + 1, FN(every)(block), FN(every)(block), FN(every)(stream), FN(every)(stream), out);
#undef EVEN
}

/* Four vectors to 4 L values in the order a[0], b[0], c[0], d[0], a[1], ... */
ALWAYS void FN(zip4)(vu a, vu b, vu c, vu d, void *to) {
    vu ab = SHUFFLE(a, b, ZIP_LOW), AB = SHUFFLE(a, b, ZIP_HIGH), cd = SHUFFLE(c, d, ZIP_LOW), CD = SHUFFLE(c, d, ZIP_HIGH);
    FN(vu_at) *out = to;
    out[0] = SHUFFLE(ab, cd, ZIP2_LOW), out[1] = SHUFFLE(ab, cd, ZIP2_HIGH);
    out[2] = SHUFFLE(AB, CD, ZIP2_LOW), out[3] = SHUFFLE(AB, CD, ZIP2_HIGH);
}

static void FN(words)(uint64_t seed, uint64_t stream, const int64_t *blocks, int64_t n, int64_t groups, uint32_t *out) {
    uint32_t drawn[4 * L] ALIGNED;
    for (int64_t i = 0; i < n; i++)
        for (int64_t g = 0; g < groups; g += L) {
            vu w[4];
            FN(groups)(seed, stream, (uint64_t)blocks[i], (uint64_t)g, w);
            FN(zip4)(w[0], w[1], w[2], w[3], drawn);
            memcpy(out + 4 * (i * groups + g), drawn, 16 * (size_t)least(L, groups - g));
        }
}

/* --- Gaussians: Box-Muller on pairs of words, in fp32 ------------------------------------------------------------- */

/* sqrt(-2 ln u), u = ((w >> 8) + 1/2) 2^-24; the polynomial is that of Cephes' logf. */
ALWAYS vf FN(radius)(vu w) {
    vf u = __builtin_convertvector((FN(vu))((w >> 8) * 2 + 1), vf) * 0x1p-25f;
    vu bits = (vu)u, shifted = bits - 0x3F3504F3; /* the mantissa lies in [sqrt(1/2), sqrt(2)) */
#if L == 16
    vf e = (vf)_mm512_cvtepi32_ps(_mm512_srai_epi32((__m512i)shifted, 23));
#elif L == 8
    vf e = (vf)_mm256_cvtepi32_ps(_mm256_srai_epi32((__m256i)shifted, 23));
#else
    vf e;
    for (int i = 0; i < L; i++) e[i] = (float)((int32_t)shifted[i] >> 23);
#endif
    vf f = (vf)((shifted & 0x007FFFFF) + 0x3F3504F3) - 1.0f, ff = f * f;
    vf p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    vf y = p * f * ff + e * -2.12194440e-4f - ff * 0.5f;
    vf square = (f + y + e * 0.693359375f) * -2.0f;
    return SQRT(square);
}

/* cos and sin of 2 pi (w >> 8) 2^-24: the reduction to an eighth of a turn is exact, in integers. */
ALWAYS void FN(turn)(vu w, vf *cosine, vf *sine) {
    vu t = w >> 8, quarter = (t + 0x200000) >> 22;
    vf r;
#if L == 16
    r = (vf)_mm512_cvtepi32_ps((__m512i)(t - (quarter << 22)));
#elif L == 8
    r = (vf)_mm256_cvtepi32_ps((__m256i)(t - (quarter << 22)));
#else
    for (int i = 0; i < L; i++) r[i] = (float)(int32_t)(t[i] - (quarter[i] << 22));
#endif
    vf a = r * (float)(6.283185307179586 * 0x1p-24), aa = a * a;
    vf s = aa * -1.9515295891e-4f + 8.3321608736e-3f;
    s = s * aa - 1.6666654611e-1f;
    s = s * aa * a + a;
    vf c = aa * 2.443315711809948e-5f - 1.388731625493765e-3f;
    c = c * aa + 4.166664568298827e-2f;
    c = c * aa * aa - aa * 0.5f + 1.0f;
    vu swap = -(quarter & 1), sign_c = ((quarter + 1) & 2) << 30, sign_s = (quarter & 2) << 30;
    *cosine = (vf)((((vu)s & swap) | ((vu)c & ~swap)) ^ sign_c);
    *sine = (vf)((((vu)c & swap) | ((vu)s & ~swap)) ^ sign_s);
}

/* At least `count` Gaussians of a block; `out` has room for count rounded up to 4 L. */
static void FN(gaussians)(uint64_t seed, uint64_t stream, uint64_t block, int64_t count, float *out) {
    for (int64_t g = 0; 4 * g < count; g += L) {
        vu w[4];
        vf c0, s0, c1, s1;
        FN(groups)(seed, stream, block, (uint64_t)g, w);
        vf r0 = FN(radius)(w[0]), r1 = FN(radius)(w[2]);
        FN(turn)(w[1], &c0, &s0);
        FN(turn)(w[3], &c1, &s1);
        FN(zip4)((vu)(r0 * c0), (vu)(r0 * s0), (vu)(r1 * c1), (vu)(r1 * s1), out + 4 * g);
    }
}

/* --- signs --------------------------------------------------------------------------------------------------------
   The signs of a batch of blocks are drawn together: counter k = (2 i + s) groups + g is group g of stream s of block i, and word
   w of it lies at w * COUNTERS + k. */

typedef struct {
    int64_t groups, batch; /* groups of a block in one stream; blocks at once */
    uint64_t group_e[COUNTERS / 2], group_o[COUNTERS / 2], stream_e[COUNTERS / 2], stream_o[COUNTERS / 2], block[COUNTERS / 2];
    uint32_t words[4 * COUNTERS] ALIGNED;
} FN(signs_t);
#define signs_t FN(signs_t)

static void FN(signs_plan)(signs_t *plan, int64_t m) {
    int64_t groups = m > 128 ? m / 128 : 1;
    plan->groups = groups, plan->batch = COUNTERS / 2 / groups;
    for (int64_t k = 0; k < COUNTERS; k++) {
        uint64_t group = (uint64_t)(k % groups), stream = k / groups % 2 ? OUTER : INNER;
        (k % 2 ? plan->group_o : plan->group_e)[k / 2] = group;
        (k % 2 ? plan->stream_o : plan->stream_e)[k / 2] = stream;
    }
}

/* Draw the signs of `count` <= batch blocks. */
static void FN(signs_draw)(signs_t *plan, uint64_t seed, const int64_t *blocks, int64_t count) {
    for (int64_t i = 0, k = 0; i < count; i++)
        for (int64_t g = 0; g < plan->groups; g++) plan->block[k++] = (uint64_t)blocks[i];
    int64_t used = count * plan->groups; /* pairs of counters */
    for (int64_t k = used; k < COUNTERS / 2 && k % (L / 2); k++) plan->block[k] = 0;
#define AT(a) (*(const FN(vq_at) *)(plan->a + k))
    for (int64_t k = 0; k < used; k += L / 2) {
        vu w[4];
        FN(philox)(seed, AT(group_e), AT(group_o), AT(block), AT(block), AT(stream_e), AT(stream_o), w);
        for (int j = 0; j < 4; j++) *(vu *)(plan->words + j * COUNTERS + 2 * k) = w[j];
    }
#undef AT
}

/* Where the word lies that holds the signs of vector v of a block; `words` is the block's first counter in one stream. */
ALWAYS const uint32_t *FN(word)(const uint32_t *words, int64_t v) {
    int64_t w = v * L / 32;
    return words + (w & 3) * COUNTERS + (w >> 2);
}

/* The signs of vector v of a block, out of its word, as the first bit of each lane; the other bits hold rubbish. */
ALWAYS vu FN(signs)(uint32_t word, int64_t v) {
    uint32_t offset = (uint32_t)(v * L % 32);
#if L == 4 /* no shift by lane in SSE2: compare one bit of each lane instead */
    vu bit = {1, 2, 4, 8};
    return (vu)((((vu){0} + (word >> offset)) & bit) != 0);
#else
#define SHIFT(i) 31 - (i)
    return ((vu){0} + word) << ((vu){LANES(SHIFT)} - offset);
#undef SHIFT
#endif
}

ALWAYS vf FN(flip)(vf x, uint32_t word, int64_t v) { return (vf)((vu)x ^ (FN(signs)(word, v) & 0x80000000u)); }

/* to + x factor with the signs of vector v. */
ALWAYS vf FN(add_flipped)(vf to, vf x, float factor, uint32_t word, int64_t v) {
#if L == 8 /* one instruction takes the factor or its negative by the first bit */
    vf plus = (vf){0} + factor;
    return to + x * (vf)_mm256_blendv_ps((__m256)plus, (__m256)-plus, (__m256)FN(signs)(word, v));
#else
    return to + FN(flip)(x, word, v) * factor;
#endif
}

/* --- H_m ----------------------------------------------------------------------------------------------------------
   A block is nv vectors. `front` does the stages inside a vector but the last, and those among RADIX neighbours; `middle`, where it is
   needed, radix 4 in place; `back` the last one inside a vector and radix 4 or less, together with what is done to the result. nv is constant where it is called. */

#define XOR1(i) (i) ^ 1
#define XOR2(i) (i) ^ 2
#define XOR4(i) (i) ^ 4
#define SIGN1(i) (i) & 1 ? -1.0f : 1.0f
#define SIGN2(i) (i) & 2 ? -1.0f : 1.0f
#define SIGN4(i) (i) & 4 ? -1.0f : 1.0f
#define SIGN8(i) (i) & 8 ? -1.0f : 1.0f

ALWAYS vf FN(lanes)(vf x) {
    x = x * (vf){LANES(SIGN1)} + SHUFFLE(x, x, LANES(XOR1));
    x = x * (vf){LANES(SIGN2)} + SHUFFLE(x, x, LANES(XOR2));
#if L == 16
    x = x * (vf){LANES(SIGN4)} + SHUFFLE(x, x, LANES(XOR4));
#endif
    return x;
}

/* The last stage inside a vector, on the way from memory: loading a half twice costs no shuffle, and the shuffle unit is the narrow one. */
ALWAYS vf FN(halves)(const float *p) {
#if L == 16
    return (vf)_mm512_broadcast_f32x8(_mm256_loadu_ps(p)) + (vf)_mm512_broadcast_f32x8(_mm256_loadu_ps(p + 8)) * (vf){LANES(SIGN8)};
#elif L == 8
    return (vf)_mm256_broadcast_ps((const __m128 *)p) + (vf)_mm256_broadcast_ps((const __m128 *)(p + 4)) * (vf){LANES(SIGN4)};
#else
    return LOAD(p);
#endif
}

ALWAYS void FN(butterflies)(vf *x, int count) {
#pragma GCC unroll 4
    for (int half = 1; half < count; half *= 2)
#pragma GCC unroll 16
        for (int i = 0; i < count; i++)
            if (!(i & half)) {
                vf a = x[i], b = x[i + half];
                x[i] = a + b, x[i + half] = a - b;
            }
}

ALWAYS void FN(front)(int nv, int radix, const float *from, const float *times, const uint32_t *words, float *x, const float *ahead) {
    for (int low = 0; low < nv; low += radix) {
        vf v[RADIX];
        const uint32_t *here = words ? FN(word)(words, low) : NULL; /* words below are then at constant places from here */
#pragma GCC unroll 16
        for (int i = 0; i < radix; i++) {
            if (i * L % 16 == 0) __builtin_prefetch(ahead + (low + i) * L);
            v[i] = LOAD(from + (low + i) * L);
            v[i] = times ? v[i] * LOAD(times + (low + i) * L) : FN(flip)(v[i], *FN(word)(here, i), i);
            v[i] = FN(lanes)(v[i]);
        }
        FN(butterflies)(v, radix);
#pragma GCC unroll 16
        for (int i = 0; i < radix; i++) STORE(x + (low + i) * L, v[i]);
    }
}

ALWAYS void FN(middle)(int nv, int stride, float *x) {
    for (int low = 0; low < nv; low += 4 * stride)
        for (int i = low; i < low + stride; i++) {
            vf v[4];
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) v[q] = LOAD(x + (i + q * stride) * L);
            FN(butterflies)(v, 4);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) STORE(x + (i + q * stride) * L, v[q]);
        }
}

/* What is done to the result. WRITE: out = base + factor S x. ADD: out += x, times Gaussians or signs. */
enum { FN(WRITE), FN(STREAMED), FN(ADD) };

ALWAYS void FN(back)(int nv, int radix, int what, const float *x, const float *times, const uint32_t *words, const float *base, float factor,
                     float *out) {
    int stride = nv / radix, group = stride < 32 / L ? stride : 32 / L; /* vectors that share a word of signs */
#pragma GCC unroll 8
    for (int low = 0; low < stride; low += group) {
        uint32_t word[4] = {0}; /* read before anything is stored, which the compiler could not know to be elsewhere */
#pragma GCC unroll 4
        for (int q = 0; q < radix && words; q++) word[q] = *FN(word)(words, low + q * stride);
#pragma GCC unroll 8
        for (int i = low; i < low + group; i++) {
            vf v[4];
#pragma GCC unroll 4
            for (int q = 0; q < radix; q++) v[q] = FN(halves)(x + (i + q * stride) * L);
            FN(butterflies)(v, radix);
#pragma GCC unroll 4
            for (int q = 0; q < radix; q++) {
                int at = i + q * stride;
                vf to = what == FN(ADD) ? LOAD(out + at * L) : LOAD(base + at * L);
                vf y = times ? to + v[q] * LOAD(times + at * L) : FN(add_flipped)(to, v[q], what == FN(ADD) ? 1 : factor, word[q], at);
                if (what == FN(STREAMED))
                    STREAM(out + at * L, y);
                else
                    STORE(out + at * L, y);
            }
        }
    }
}

ALWAYS void FN(block)(int nv, int what, const float *from, const float *times_in, const uint32_t *words_in, const float *ahead,
                      const float *times_out, const uint32_t *words_out, const float *base, float factor, float *out) {
    float x[BLOCK] ALIGNED;
    int radix = nv < RADIX ? nv : RADIX, done = radix;
    FN(front)(nv, radix, from, times_in, words_in, x, ahead);
    for (; nv / done > 4; done *= 4) FN(middle)(nv, done, x);
    FN(back)(nv, nv / done, what, x, times_out, words_out, base, factor, out);
}

/* The same for m < 16. */
static void FN(short_block)(int64_t m, int what, const float *from, const float *times_in, const uint32_t *words_in, const float *times_out,
                            const uint32_t *words_out, const float *base, float factor, float *out) {
    float x[16];
    for (int64_t j = 0; j < m; j++) x[j] = times_in ? from[j] * times_in[j] : words_in[0] >> j & 1 ? -from[j] : from[j];
    short_fwht(x, m);
    for (int64_t j = 0; j < m; j++) {
        float y = times_out ? x[j] * times_out[j] : words_out[0] >> j & 1 ? -x[j] : x[j];
        out[j] = what == FN(ADD) ? out[j] + y : base[j] + y * factor;
    }
}

#define SIZES(call, otherwise)                                                                                                             \
    switch (m) {                                                                                                                           \
    case 1024: call(1024); break;                                                                                                          \
    case 512: call(512); break;                                                                                                            \
    case 256: call(256); break;                                                                                                            \
    case 128: call(128); break;                                                                                                            \
    case 64: call(64); break;                                                                                                              \
    case 32: call(32); break;                                                                                                              \
    case 16: call(16); break;                                                                                                              \
    default: otherwise;                                                                                                                    \
    }

/* out = base + factor S H D z for one block; streamed writes need `out` aligned to 64 bytes. */
static void FN(block_write)(int64_t m, int streamed, const float *z, const float *gauss, const uint32_t *inner, const uint32_t *outer,
                            const float *ahead, const float *base, float factor, float *out) {
#define SIGNED(size) FN(block)(size / L, FN(WRITE), z, NULL, inner, ahead, NULL, outer, base, factor, out)
#define SIGNED_STREAMED(size) FN(block)(size / L, FN(STREAMED), z, NULL, inner, ahead, NULL, outer, base, factor, out)
#define GAUSSIAN(size) FN(block)(size / L, FN(WRITE), z, gauss, NULL, ahead, NULL, outer, base, factor, out)
    if (gauss) {
        SIZES(GAUSSIAN, FN(short_block)(m, FN(WRITE), z, gauss, NULL, NULL, outer, base, factor, out))
    } else if (streamed && m >= 16) {
        SIZES(SIGNED_STREAMED, break)
    } else {
        SIZES(SIGNED, FN(short_block)(m, FN(WRITE), z, NULL, inner, NULL, outer, base, factor, out))
    }
#undef SIGNED
#undef SIGNED_STREAMED
#undef GAUSSIAN
}

/* sum += D H S g for one block. */
static void FN(block_add)(int64_t m, const float *g, const float *gauss, const uint32_t *inner, const uint32_t *outer, const float *ahead,
                          float *sum) {
#define SIGNED(size) FN(block)(size / L, FN(ADD), g, NULL, outer, ahead, NULL, inner, NULL, 0, sum)
#define GAUSSIAN(size) FN(block)(size / L, FN(ADD), g, NULL, outer, ahead, gauss, NULL, NULL, 0, sum)
    if (gauss) {
        SIZES(GAUSSIAN, FN(short_block)(m, FN(ADD), g, NULL, outer, gauss, NULL, NULL, 0, sum))
    } else {
        SIZES(SIGNED, FN(short_block)(m, FN(ADD), g, NULL, outer, NULL, inner, NULL, 0, sum))
    }
#undef SIGNED
#undef GAUSSIAN
}

/* --- half precision ------------------------------------------------------------------------------------------------ */

/* out[0 ... n) = in[at ... at + n) in fp32. */
static void FN(widen)(const void *in, int type, int64_t at, int64_t n, float *out) {
    const uint16_t *half = (const uint16_t *)in + at;
    bits_t *bits = (bits_t *)(void *)out;
    if (type == FP32)
        memcpy(out, (const float *)in + at, (size_t)n * sizeof(float));
    else if (type == BF16)
        for (int64_t j = 0; j < n; j++) bits[j] = (uint32_t)half[j] << 16;
    else
        for (int64_t j = 0; j < n; j++) {
            union { uint32_t u; float f; } x = {(uint32_t)(half[j] & 0x7FFF) << 13};
            x.f *= 0x1p112f;
            bits[j] = x.u | (x.u >= 0x47800000 ? 0x7F800000 : 0) | (uint32_t)(half[j] & 0x8000) << 16;
        }
}

/* rounding.round_dithered of n <= 1024 values, the first being element 0 of dither block `block`. On the magnitude's bits the map is
   an integer addition: with h the drawn 16 bits, x > 0 goes up where the dropped part plus h carries, x < 0 with 65535 - h. */
static void FN(round)(const float *x, int64_t n, int type, uint64_t seed, uint64_t block, uint16_t *out) {
    uint32_t drawn[BLOCK / 2 + 4 * L] ALIGNED;
    for (int64_t g = 0; 8 * g < n; g += L) {
        vu w[4];
        FN(groups)(seed, DITHER, block, (uint64_t)g, w);
        FN(zip4)(w[0], w[1], w[2], w[3], drawn + 4 * g);
    }
    const bits_t *bits = (const bits_t *)(const void *)x;
    for (int64_t j = 0; j < n; j++) {
        uint32_t h = drawn[j / 2] >> (j % 2 ? 16 : 0) & 0xFFFF, sign = bits[j] >> 31, a = bits[j] & 0x7FFFFFFF, r;
        h ^= sign ? 0xFFFF : 0;
        if (type == BF16) {
            r = a > 0x7F800000 ? 0x7FC0 : a == 0x7F800000 ? 0x7F80 : (a + h) >> 16;
        } else {
            union { uint32_t u; float f; } t = {a};
            /* below 2^-14 the spacing is 2^-24 */
            float scaled = a < 0x38800000 ? t.f * 0x1p24f : 0, whole = (float)(int32_t)scaled, rest = scaled - whole;
            float need = ((float)(65535 - h) + 0.5f) * 0x1p-16f;
            uint32_t small = (uint32_t)(int32_t)whole + (sign ? rest > need : rest >= need);
            uint32_t normal = (a + (h >> 3) - 0x38000000) >> 13;
            r = a < 0x38800000 ? small : normal;
            r = a >= 0x47800000 || r > 0x7C00 ? 0x7C00 : r;
            r = a > 0x7F800000 ? 0x7E00 : r;
        }
        out[j] = (uint16_t)(r ? r | sign << 15 : 0);
    }
}

/* --- workers -------------------------------------------------------------------------------------------------------- */

/* Write elements low ... high of a tensor; low is a multiple of 1024. */
static void FN(write_range)(const fastfood_t *map, const target_t *t, int64_t low, int64_t high, int streamed, signs_t *plan) {
    int64_t m = map->m, blocks[COUNTERS / 2];
    float gauss[BLOCK + 4 * L] ALIGNED, scratch[BLOCK] ALIGNED;
    int direct = t->base_type == FP32 && t->out_type == FP32;
    streamed = streamed && t->base != t->out && (uintptr_t)t->out % 64 == 0;
    const float *base = t->base;
    float *out = t->out, factor = (float)t->factor;
    for (int64_t at = low; at < high;) {
        int64_t first = t->first_block + at / m, count = least(plan->batch, ceil_div(high - at, m));
        for (int64_t i = 0; i < count; i++) blocks[i] = first + i;
        FN(signs_draw)(plan, map->seed, blocks, count);
        for (int64_t i = 0; i < count; i++, at += m) {
            const uint32_t *inner = plan->words + 2 * i * plan->groups, *outer = inner + plan->groups;
            const float *z = t->z + blocks[i] % map->chunks * m;
            if (map->gaussian) FN(gaussians)(map->seed, INNER, (uint64_t)blocks[i], m, gauss);
            if (direct && at + m <= high) {
                const float *ahead = at + 2 * m <= high ? base + at + m : base + at;
                FN(block_write)(m, streamed, z, map->gaussian ? gauss : NULL, inner, outer, ahead, base + at, factor, out + at);
                continue;
            }
            /* the tail of a tensor, or half precision: by way of a block of 1024 in scratch */
            int64_t in_block = at % BLOCK, real = least(m, high - at);
            float *to = scratch + in_block;
            FN(widen)(t->base, t->base_type, at, real, to);
            if (real < m) memset(to + real, 0, (size_t)(m - real) * sizeof(float));
            FN(block_write)(m, 0, z, map->gaussian ? gauss : NULL, inner, outer, to, to, factor, to);
            if (t->out_type == FP32)
                memcpy(out + at, to, (size_t)real * sizeof(float));
            else if (in_block + m == BLOCK || at + m >= high)
                FN(round)(scratch, in_block + real, t->out_type, map->seed, (uint64_t)(t->dither_block + at / BLOCK),
                          (uint16_t *)t->out + (at - in_block));
        }
    }
}

static void FN(write_worker)(void *data) {
    write_job *job = data;
    const fastfood_t *map = job->map;
    signs_t plan;
    FN(signs_plan)(&plan, map->m);
    for (int64_t item, low; (item = take(&job->next)) < job->items;) {
        const target_t *t = find_target(job, item, &low);
        FN(write_range)(map, t, low, least(low + WRITE_ITEM, t->size), (int)job->streamed, &plan);
    }
#if D90_X86 && L > 4
    _mm_sfence();
#endif
}

/* Block b of a gradient in fp32: where it lies, or assembled in scratch. */
ALWAYS const float *FN(gradient_block)(const gradient_t *grad, int64_t m, int64_t b, float *scratch) {
    int64_t low = b * m, high = least(low + m, grad->size);
    if (!grad->rows) {
        if (grad->type == FP32 && high == low + m) return (const float *)grad->g + low;
        FN(widen)(grad->g, grad->type, low, high - low, scratch);
        memset(scratch + (high - low), 0, (size_t)(low + m - high) * sizeof(float));
        return scratch;
    }
    memset(scratch, 0, (size_t)m * sizeof(float));
    int64_t first = low / grad->width, i = 0, end = grad->row_count;
    while (i < end) { /* the first row kept that is not before this block */
        int64_t middle = (i + end) / 2;
        if (grad->rows[middle] < first)
            i = middle + 1;
        else
            end = middle;
    }
    for (; i < grad->row_count && grad->rows[i] * grad->width < high; i++) {
        int64_t start = grad->rows[i] * grad->width, from = start < low ? low : start, to = least(start + grad->width, high);
        FN(widen)(grad->g, grad->type, i * grad->width + from - start, to - from, scratch + (from - low));
    }
    return scratch;
}

static void FN(fold_worker)(void *data) {
    fold_job *job = data;
    const fastfood_t *map = job->map;
    const gradient_t *grad = job->grad;
    int64_t m = map->m, blocks[COUNTERS / 2];
    float gauss[BLOCK + 4 * L] ALIGNED, scratch[BLOCK] ALIGNED, some[FOLD_GROUP * BLOCK] ALIGNED;
    double sum[FOLD_GROUP * BLOCK] ALIGNED;
    signs_t plan;
    FN(signs_plan)(&plan, m);
    for (int64_t item; (item = take(&job->next)) < job->items;) {
        int64_t residue = 0, together = 1, position, end, held = 0, part = item;
        if (job->list) {
            position = job->item_low[item], end = job->item_low[item + 1];
        } else { /* blocks are counted round by round of the chunks, and in a round chunk by chunk */
            int64_t strip = item % job->strips, rounds = ceil_div(job->blocks, map->chunks);
            residue = item / job->strips * FOLD_GROUP, part = strip * job->residues + residue;
            together = least(FOLD_GROUP, job->residues - residue);
            int64_t last = least(job->blocks - (rounds - 1) * map->chunks - residue, together); /* in the last round */
            position = rounds * strip / job->strips * together;
            end = rounds * (strip + 1) / job->strips * together;
            if (strip + 1 == job->strips) end += (last < 0 ? 0 : last) - together;
        }
        memset(sum, 0, (size_t)(together * m) * sizeof(double));
        memset(some, 0, (size_t)(together * m) * sizeof(float));
#define BLOCK_AT(p) (job->list ? job->list[p] : residue + (p) % together + map->chunks * ((p) / together))
        while (position < end) {
            int64_t count = least(plan.batch, end - position);
            for (int64_t i = 0; i < count; i++) blocks[i] = grad->first_block + BLOCK_AT(position + i);
            FN(signs_draw)(&plan, map->seed, blocks, count);
            for (int64_t i = 0; i < count; i++, position++) {
                const uint32_t *inner = plan.words + 2 * i * plan.groups, *outer = inner + plan.groups;
                const float *g = FN(gradient_block)(grad, m, blocks[i] - grad->first_block, scratch), *ahead = g;
                if (!job->list && grad->type == FP32 && position + 1 < end) ahead = (const float *)grad->g + BLOCK_AT(position + 1) * m;
                if (map->gaussian) FN(gaussians)(map->seed, INNER, (uint64_t)blocks[i], m, gauss);
                FN(block_add)(m, g, map->gaussian ? gauss : NULL, inner, outer, ahead, some + position % together * m);
                if (++held == FOLD_PAIRWISE * together || position + 1 == end) {
                    for (int64_t j = 0; j < together * m; j++) sum[j] += (double)some[j], some[j] = 0;
                    held = 0;
                }
            }
        }
#undef BLOCK_AT
        if (job->parts) {
            memcpy(job->parts + part * m, sum, (size_t)(together * m) * sizeof(double));
            continue;
        }
        for (int64_t r = 0; r < together; r++) { /* no other item has these chunks */
            double *to = job->z_gradient + (grad->first_block + residue + r) % map->chunks * m;
            for (int64_t j = 0; j < m; j++) to[j] += grad->scale * sum[r * m + j];
        }
    }
}

/* --- one-hot ------------------------------------------------------------------------------------------------------- */

/* The turns (a_k, b_k) of L periods from `first`. */
typedef struct {
    int64_t first;
    uint32_t a[L], b[L];
} FN(turns_t);

static void FN(turns_draw)(FN(turns_t) *turns, const onehot_t *map, int64_t first) {
    vu w[4];
    vq pair, stream = FN(every)(COLUMNS), zero = FN(every)(0);
    for (int i = 0; i < L / 2; i++) pair[i] = (uint64_t)(first + 1 + 2 * i);
    FN(philox)(map->seed, zero, zero, pair, pair + 1, stream, stream, w);
    turns->first = first;
    for (int i = 0; i < L; i++) {
        turns->a[i] = (uint32_t)map->coprime[(uint64_t)w[0][i] * (uint64_t)map->coprime_count >> 32];
        turns->b[i] = (uint32_t)((uint64_t)w[1][i] * (uint64_t)map->d >> 32);
    }
}

/* Places in q of n rows from global row `row`. */
static void FN(places)(const onehot_t *map, FN(turns_t) *turns, int64_t row, int64_t n, uint32_t *out) {
    const uint32_t d = (uint32_t)map->d;
    for (int64_t done = 0; done < n;) {
        int64_t k = (row + done) / map->d, i = (row + done) % map->d, count = least(n - done, map->d - i), j = 0;
        if (k < turns->first || k >= turns->first + L) FN(turns_draw)(turns, map, k);
        uint32_t a = turns->a[k - turns->first] % d, *to = out + done;
        uint32_t at = (uint32_t)(((uint64_t)a * (uint64_t)i + turns->b[k - turns->first]) % d);
        if (count >= 2 * L) {
            vu place, ds = (vu){0} + d, step = (vu){0} + (uint32_t)((uint64_t)a * L % d);
            for (int l = 0; l < L; l++) {
                place[l] = at;
                at += a, at -= at >= d ? d : 0;
            }
            for (; j + L <= count; j += L) {
                *(FN(vu_at) *)(to + j) = place;
                place += step;
                place -= (vu)(place >= ds) & ds;
            }
            at = place[0];
        }
        for (; j < count; j++) {
            to[j] = at;
            at += a, at -= at >= d ? d : 0;
        }
        done += count;
    }
}

/* Sign words of the 1024 global rows from `row`, which need not begin a block. */
static void FN(row_signs)(const onehot_t *map, int64_t row, uint32_t out[BLOCK / 32]) {
    uint32_t bits[2 * BLOCK / 32 + 4 * L] ALIGNED;
    memset(out, 0, BLOCK / 8);
    if (!map->signs) return;
    int64_t block = row / BLOCK, offset = row % BLOCK, skip = offset / 32, shift = offset % 32;
    for (int half = 0; half < (offset ? 2 : 1); half++)
        for (int64_t g = 0; g < BLOCK / 128; g += L) {
            vu w[4];
            FN(groups)(map->seed, SIGNS, (uint64_t)(block + half), (uint64_t)g, w);
            FN(zip4)(w[0], w[1], w[2], w[3], bits + half * (BLOCK / 32) + 4 * g);
        }
    for (int64_t i = 0; i < BLOCK / 32; i++)
        out[i] = shift ? bits[skip + i] >> shift | bits[skip + i + 1] << (32 - shift) : bits[skip + i];
}

/* x with the signs of elements v L ... of consecutive sign words. */
ALWAYS vf FN(flip_row)(vf x, const uint32_t *words, int64_t v) {
    uint32_t word = words[v * L / 32] >> (v * L % 32);
#define BIT(i) 1u << (i)
    vu sign = (vu)((((vu){0} + word) & (vu){LANES(BIT)}) != 0);
#undef BIT
    return (vf)((vu)x ^ (sign & 0x80000000u));
}

static void FN(onehot_write_worker)(void *data) {
    write_job *job = data;
    const onehot_t *map = job->map;
    FN(turns_t) turns = {.first = -2 * L};
    uint32_t places[BLOCK] ALIGNED, words[BLOCK / 32];
    float x[BLOCK] ALIGNED, scratch[BLOCK] ALIGNED;
    memset(places, 0, sizeof places);
    for (int64_t item, low; (item = take(&job->next)) < job->items;) {
        const target_t *t = find_target(job, item, &low);
        const float factor = (float)t->factor, *q = t->z;
        int direct = t->base_type == FP32 && t->out_type == FP32;
        int streamed = job->streamed && direct && t->base != t->out && (uintptr_t)t->out % 64 == 0;
        for (int64_t at = low, high = least(low + WRITE_ITEM, t->size); at < high; at += BLOCK) {
            int64_t n = least(BLOCK, high - at);
            const float *base = (const float *)t->base + at;
            float *out = direct && n == BLOCK ? (float *)t->out + at : x;
            FN(places)(map, &turns, t->first_block + at, n, places);
            FN(row_signs)(map, t->first_block + at, words);
            if (out == x) {
                memset(scratch, 0, sizeof scratch);
                FN(widen)(t->base, t->base_type, at, n, scratch);
                base = scratch;
            }
            for (int64_t v = 0; v < BLOCK / L; v++) {
#if L == 16
                vf y = (vf)_mm512_i32gather_ps(*(const __m512i *)(places + v * L), q, 4);
#elif L == 8
                vf y = (vf)_mm256_i32gather_ps(q, *(const __m256i *)(places + v * L), 4);
#else
                vf y;
                for (int l = 0; l < L; l++) y[l] = q[places[v * L + l]];
#endif
                y = LOAD(base + v * L) + FN(flip_row)(y, words, v) * factor;
                if (streamed && out != x)
                    STREAM(out + v * L, y);
                else
                    STORE(out + v * L, y);
            }
            if (out != x) continue;
            if (t->out_type == FP32)
                memcpy((float *)t->out + at, x, (size_t)n * sizeof(float));
            else
                FN(round)(x, n, t->out_type, map->seed, (uint64_t)(t->dither_block + at / BLOCK), (uint16_t *)t->out + at);
        }
    }
#if D90_X86 && L > 4
    _mm_sfence();
#endif
}

/* Places and signed values of n <= 1024 gradient entries from `at` on, which belong to global rows from `row` on. */
ALWAYS void FN(onehot_part)(const onehot_t *map, FN(turns_t) *turns, const gradient_t *grad, int64_t at, int64_t row, int64_t n,
                            uint32_t *places, float *x) {
    uint32_t words[BLOCK / 32];
    FN(places)(map, turns, row, n, places);
    FN(row_signs)(map, row, words);
    FN(widen)(grad->g, grad->type, at, n, x);
    for (int64_t v = 0; v * L < n; v++) STORE(x + v * L, FN(flip_row)(LOAD(x + v * L), words, v));
}

static void FN(onehot_fold_worker)(void *data) {
    onehot_job *job = data;
    const onehot_t *map = job->map;
    const gradient_t *grad = job->grad;
    FN(turns_t) turns = {.first = -2 * L};
    uint32_t places[BLOCK] ALIGNED;
    float x[BLOCK] ALIGNED = {0};
    for (int64_t strip; (strip = take(&job->next)) < job->strips;) {
        double *sum = job->parts + strip * map->d;
        memset(sum, 0, (size_t)map->d * sizeof(double));
        int64_t blocks = ceil_div(grad->size, BLOCK), end = least(blocks * (strip + 1) / job->strips * BLOCK, grad->size);
        for (int64_t at = blocks * strip / job->strips * BLOCK; at < end; at += BLOCK) {
            int64_t n = least(BLOCK, end - at);
            FN(onehot_part)(map, &turns, grad, at, grad->first_block + at, n, places, x);
            for (int64_t j = 0; j < n; j++) sum[places[j]] += (double)x[j];
        }
    }
}

/* Straight into z_gradient, on the calling thread. */
static void FN(onehot_fold_here)(const onehot_job *job) {
    const onehot_t *map = job->map;
    const gradient_t *grad = job->grad;
    FN(turns_t) turns = {.first = -2 * L};
    uint32_t places[BLOCK] ALIGNED;
    float x[BLOCK] ALIGNED = {0};
    int64_t count = grad->rows ? grad->row_count : 1, width = grad->rows ? grad->width : grad->size;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = grad->first_block + (grad->rows ? grad->rows[i] * width : 0);
        for (int64_t at = 0; at < width; at += BLOCK) {
            int64_t n = least(BLOCK, width - at);
            FN(onehot_part)(map, &turns, grad, i * width + at, row + at, n, places, x);
            for (int64_t j = 0; j < n; j++) {
                int64_t column = map->pi[places[j]];
                job->z_gradient[column] += (double)map->weight[column] * grad->scale * (double)x[j];
            }
        }
    }
}

#undef L
#undef vf
#undef vu
#undef vq
#undef LOAD
#undef STORE
#undef SHUFFLE
#undef RADIX
#undef LANES
#undef ZIP_LOW
#undef ZIP_HIGH
#undef ZIP2_LOW
#undef ZIP2_HIGH
#undef MUL32
#undef HIGH32
#undef SQRT
#undef STREAM
#undef signs_t
#undef SIZES
#undef XOR1
#undef XOR2
#undef XOR4
#undef SIGN1
#undef SIGN2
#undef SIGN4
#undef SIGN8
#endif

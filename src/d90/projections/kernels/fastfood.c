/* Fastfood, projection version 1: fused forward and adjoint, sign entries, fp32.

   Nothing of size D is stored: the signs D_b and S_b are drawn again from Philox4x32-10 where they are used. A block of 1024 stays in the
   first-level cache; its Walsh-Hadamard transform is two passes over it, eight vectors of sixteen at a time. The compiler makes one clone of
   each pass for AVX-512, AVX2 and the baseline, and the loader of the operating system picks one. OpenMP's runtime is torch's own: this file is linked
   without one, and the Python loader makes torch's symbols visible first. */

#include <stdint.h>
#include <string.h>

#define BLOCK 1024
#define STRIPS 16 /* partial sums of the adjoint: a fixed number, so that the result does not depend on the number of threads */
#define INNER 1u
#define OUTER 2u

#if defined(__x86_64__) && !defined(D90_NO_CLONES)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef float a16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

/* 32 sign words for the inner and 32 for the outer diagonal of one block: sixteen counters side by side */
INLINE void draw_signs(uint64_t seed, uint64_t block, uint32_t *inner, uint32_t *outer) {
    uint32_t x0[16], x1[16], x2[16], x3[16];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int l = 0; l < 16; l++) {
        x0[l] = (uint32_t)(l & 7);
        x1[l] = (uint32_t)block;
        x2[l] = (uint32_t)(block >> 32);
        x3[l] = l < 8 ? INNER : OUTER;
    }
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < 16; l++) {
            uint64_t p0 = (uint64_t)x0[l] * 0xD2511F53u, p1 = (uint64_t)x2[l] * 0xCD9E8D57u;
            uint32_t y0 = (uint32_t)(p1 >> 32) ^ x1[l] ^ k0, y2 = (uint32_t)(p0 >> 32) ^ x3[l] ^ k1;
            x1[l] = (uint32_t)p1;
            x3[l] = (uint32_t)p0;
            x0[l] = y0;
            x2[l] = y2;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int l = 0; l < 8; l++) {
        inner[4 * l] = x0[l], inner[4 * l + 1] = x1[l], inner[4 * l + 2] = x2[l], inner[4 * l + 3] = x3[l];
        outer[4 * l] = x0[l + 8], outer[4 * l + 1] = x1[l + 8], outer[4 * l + 2] = x2[l + 8], outer[4 * l + 3] = x3[l + 8];
    }
}

/* flip the signs of elements 16 v ... 16 v + 15 by their bits */
INLINE a16 flip(a16 x, const uint32_t *bits, int v) {
    const u16 left = {31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16};
    uint32_t half = bits[v >> 1] >> (16 * (v & 1));
    u16 spread = {half, half, half, half, half, half, half, half, half, half, half, half, half, half, half, half};
    return (a16)((u16)x ^ ((spread << left) & 0x80000000u));
}

INLINE a16 butterfly(a16 x, i16 partner, u16 sign) { return __builtin_shuffle(x, partner) + (a16)((u16)x ^ sign); }

/* H_16 inside each vector, then H_8 across eight vectors */
INLINE void transform_inside(a16 *x) {
    const uint32_t n = 0x80000000u;
    const i16 p1 = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    const i16 p2 = {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13};
    const i16 p4 = {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11};
    const i16 p8 = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
    const u16 s1 = {0, n, 0, n, 0, n, 0, n, 0, n, 0, n, 0, n, 0, n};
    const u16 s2 = {0, 0, n, n, 0, 0, n, n, 0, 0, n, n, 0, 0, n, n};
    const u16 s4 = {0, 0, 0, 0, n, n, n, n, 0, 0, 0, 0, n, n, n, n};
    const u16 s8 = {0, 0, 0, 0, 0, 0, 0, 0, n, n, n, n, n, n, n, n};
    for (int i = 0; i < 8; i++) {
        x[i] = butterfly(x[i], p1, s1);
        x[i] = butterfly(x[i], p2, s2);
        x[i] = butterfly(x[i], p4, s4);
        x[i] = butterfly(x[i], p8, s8);
    }
}

INLINE void transform_across(a16 *x) {
    for (int h = 1; h < 8; h *= 2)
        for (int i = 0; i < 8; i++)
            if (!(i & h)) {
                a16 a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
}

INLINE a16 load(const float *p) { return (a16) * (const v16 *)p; }
INLINE void store(float *p, a16 x) { *(v16 *)p = (v16)x; }

/* any m below 1024: plain butterflies */
INLINE void transform_small(float *x, int m) {
    for (int h = 1; h < m; h *= 2)
        for (int i = 0; i < m; i += 2 * h)
            for (int j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
}

INLINE float flip_one(float x, const uint32_t *bits, int j) {
    union {
        float f;
        uint32_t u;
    } v = {x};
    v.u ^= (bits[j >> 5] << (31 - (j & 31))) & 0x80000000u;
    return v.f;
}

/* blocks first ... last of one tensor: out = base + c S H D z */
CLONES static void forward_blocks(float *out, const float *base, const float *z, int64_t n, float c, int64_t d_pad, int m, uint64_t seed,
                                  int64_t first_block, int64_t first, int64_t last) {
    float x[BLOCK] __attribute__((aligned(64)));
    uint32_t inner[32], outer[32];
    const int64_t chunks = d_pad / m;
    const a16 factor = {c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c};
    for (int64_t b = first; b < last; b++) {
        const int64_t block = first_block + b, low = b * m;
        const float *source = z + (block % chunks) * m;
        draw_signs(seed, (uint64_t)block, inner, outer);
        if (m == BLOCK) {
            a16 t[8];
            for (int v = 0; v < 64; v += 8) {
                for (int i = 0; i < 8; i++) t[i] = flip(load(source + 16 * (v + i)), inner, v + i);
                transform_inside(t);
                transform_across(t);
                for (int i = 0; i < 8; i++) store(x + 16 * (v + i), t[i]);
            }
            const int whole = n - low >= BLOCK;
            for (int v = 0; v < 8; v++) {
                for (int i = 0; i < 8; i++) t[i] = load(x + 16 * (v + 8 * i));
                transform_across(t);
                for (int i = 0; i < 8; i++) {
                    const int at = 16 * (v + 8 * i);
                    a16 r = flip(t[i], outer, v + 8 * i);
                    if (whole)
                        store(out + low + at, load(base + low + at) + factor * r);
                    else
                        store(x + at, r);
                }
            }
            if (whole) continue;
        } else {
            for (int j = 0; j < m; j++) x[j] = flip_one(source[j], inner, j);
            transform_small(x, m);
            for (int j = 0; j < m; j++) x[j] = flip_one(x[j], outer, j);
        }
        const int kept = (int)(n - low < m ? n - low : m);
        for (int j = 0; j < kept; j++) out[low + j] = base[low + j] + c * x[j];
    }
}

/* sum += c D H S g over blocks first ... last of one tensor */
CLONES static void fold_blocks(double *sum, const float *g, int64_t n, double c, int64_t d_pad, int m, uint64_t seed, int64_t first_block,
                               int64_t first, int64_t last) {
    float x[BLOCK] __attribute__((aligned(64)));
    uint32_t inner[32], outer[32];
    const int64_t chunks = d_pad / m;
    for (int64_t b = first; b < last; b++) {
        const int64_t block = first_block + b, low = b * m;
        const int kept = (int)(n - low < m ? n - low : m);
        const float *source = g + low;
        double *target = sum + (block % chunks) * m;
        draw_signs(seed, (uint64_t)block, inner, outer);
        if (kept < m) {
            memcpy(x, source, sizeof(float) * (size_t)kept);
            memset(x + kept, 0, sizeof(float) * (size_t)(m - kept));
            source = x;
        }
        if (m == BLOCK) {
            a16 t[8];
            for (int v = 0; v < 64; v += 8) {
                for (int i = 0; i < 8; i++) t[i] = flip(load(source + 16 * (v + i)), outer, v + i);
                transform_inside(t);
                transform_across(t);
                for (int i = 0; i < 8; i++) store(x + 16 * (v + i), t[i]);
            }
            for (int v = 0; v < 8; v++) {
                for (int i = 0; i < 8; i++) t[i] = load(x + 16 * (v + 8 * i));
                transform_across(t);
                for (int i = 0; i < 8; i++) store(x + 16 * (v + 8 * i), flip(t[i], inner, v + 8 * i));
            }
        } else {
            for (int j = 0; j < m; j++) x[j] = flip_one(source[j], outer, j);
            transform_small(x, m);
            for (int j = 0; j < m; j++) x[j] = flip_one(x[j], inner, j);
        }
        for (int j = 0; j < m; j++) target[j] += c * x[j];
    }
}

/* All tensors of a model in one call; blocks are independent, so any number of threads gives the same bits. */
void d90_fastfood_forward(int64_t targets, float *const *out, const float *const *base, const float *const *z, const int64_t *n,
                          const float *c, const int64_t *first_block, int64_t d_pad, int64_t m, uint64_t seed, int64_t threads) {
    int64_t total = 0;
    for (int64_t t = 0; t < targets; t++) total += (n[t] + m - 1) / m;
    const int64_t strips = 8 * threads < total ? 8 * threads : total;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t s = 0; s < strips; s++) {
        const int64_t from = total * s / strips, to = total * (s + 1) / strips;
        int64_t before = 0;
        for (int64_t t = 0; t < targets && before < to; t++) {
            const int64_t count = (n[t] + m - 1) / m;
            const int64_t low = from > before ? from - before : 0, high = to - before < count ? to - before : count;
            if (low < high) forward_blocks(out[t], base[t], z[t], n[t], c[t], d_pad, (int)m, seed, first_block[t], low, high);
            before += count;
        }
    }
}

/* sum (d_pad) += c D H S g; `partial` holds STRIPS * d_pad zeros for tensors of several blocks */
void d90_fastfood_fold(double *sum, double *partial, const float *g, int64_t n, double c, int64_t first_block, int64_t d_pad, int64_t m,
                       uint64_t seed, int64_t threads) {
    const int64_t total = (n + m - 1) / m;
    if (total < 2 * STRIPS) {
        fold_blocks(sum, g, n, c, d_pad, (int)m, seed, first_block, 0, total);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t s = 0; s < STRIPS; s++)
            fold_blocks(partial + s * d_pad, g, n, c, d_pad, (int)m, seed, first_block, total * s / STRIPS, total * (s + 1) / STRIPS);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < d_pad; j++)
            for (int64_t s = 0; s < STRIPS; s++) sum[j] += partial[s * d_pad + j];
    }
}

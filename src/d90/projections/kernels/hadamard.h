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
   needed, radix 4 in place; `back` the last one inside a vector and radix 4 or less, together with what is done to the result. nv is
   constant where it is called. */

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

ALWAYS void FN(back)(int nv, int radix, int what, const float *x, const float *times, const uint32_t *words, const float *base,
                     float factor, float *out) {
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

/* H x of one short vector (m < 16). */
static void FN(short_fwht)(float *x, int64_t m) {
    for (int64_t half = 1; half < m; half *= 2)
        for (int64_t i = 0; i < m; i++)
            if (!(i & half)) {
                float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
}

/* `block` for m < 16. */
static void FN(short_block)(int64_t m, int what, const float *from, const float *times_in, const uint32_t *words_in, const float *times_out,
                            const uint32_t *words_out, const float *base, float factor, float *out) {
    float x[16];
    for (int64_t j = 0; j < m; j++) x[j] = times_in ? from[j] * times_in[j] : words_in[0] >> j & 1 ? -from[j] : from[j];
    FN(short_fwht)(x, m);
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

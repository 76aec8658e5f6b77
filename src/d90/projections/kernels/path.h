/* One path: its vectors, and the rooms in which the work is done. Included once a path, with D90_LANES and FN defined. */

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

#include "draws.h"
#include "rounding.h"
#include "hadamard.h"
#include "fastfood.h"
#include "onehot.h"
#include "dense.h"

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

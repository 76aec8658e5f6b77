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
    FN(words)(seed, DITHER, block, 1, 0, ceil_div(n, 8), drawn);
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

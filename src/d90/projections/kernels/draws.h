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

/* Four vectors to 4 L values in the order a[0], b[0], c[0], d[0], a[1], ... */
ALWAYS void FN(zip4)(vu a, vu b, vu c, vu d, void *to) {
    vu ab = SHUFFLE(a, b, ZIP_LOW), AB = SHUFFLE(a, b, ZIP_HIGH), cd = SHUFFLE(c, d, ZIP_LOW), CD = SHUFFLE(c, d, ZIP_HIGH);
    FN(vu_at) *out = to;
    out[0] = SHUFFLE(ab, cd, ZIP2_LOW), out[1] = SHUFFLE(ab, cd, ZIP2_HIGH);
    out[2] = SHUFFLE(AB, CD, ZIP2_LOW), out[3] = SHUFFLE(AB, CD, ZIP2_HIGH);
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

ALWAYS void FN(box_muller)(const vu w[4], float *out) {
    vf c0, s0, c1, s1, r0 = FN(radius)(w[0]), r1 = FN(radius)(w[2]);
    FN(turn)(w[1], &c0, &s0);
    FN(turn)(w[3], &c1, &s1);
    FN(zip4)((vu)(r0 * c0), (vu)(r0 * s0), (vu)(r1 * c1), (vu)(r1 * s1), out);
}

/* --- draws --------------------------------------------------------------------------------------------------------
   Groups first ... first + groups - 1 of `rows` consecutive blocks from `block`, one after the other: four words a group, or the four
   Gaussians they make. `out` has room for the groups in all rounded up to L. */

ALWAYS void FN(draw)(int gaussian, uint64_t seed, uint64_t stream, uint64_t block, int64_t rows, uint64_t first, int64_t groups,
                      void *out) {
    vq group[2], row[2] = {FN(every)(block), FN(every)(block)}; /* of the even counters, and of the odd ones */
    vu every_group = (vu){0} + (uint32_t)groups;
    uint64_t turns = rows > 1 ? (uint64_t)(L / groups) : 0, rest = (uint64_t)L - turns * (uint64_t)groups;
    for (uint64_t i = 0, at = 0, r = 0; i < L; i++) {
        group[i % 2][i / 2] = at, row[i % 2][i / 2] += r;
        if (++at == (uint64_t)groups && rows > 1) at = 0, r++;
    }
    for (int64_t k = 0; k < rows * groups; k += L) {
        vu w[4];
        FN(philox)(seed, group[0] + first, group[1] + first, row[0], row[1], FN(every)(stream), FN(every)(stream), w);
        if (gaussian)
            FN(box_muller)(w, (float *)out + 4 * k);
        else
            FN(zip4)(w[0], w[1], w[2], w[3], (uint32_t *)out + 4 * k);
        for (int j = 0; j < 2; j++) {
            group[j] += rest, row[j] += turns;
            if (rows == 1) continue;
            vu over = (vu)((vu)group[j] >= every_group); /* the high halves are 0 */
            group[j] -= (vq)(over & every_group), row[j] += (vq)(over & 1);
        }
    }
}

static void FN(words)(uint64_t seed, uint64_t stream, uint64_t block, int64_t rows, uint64_t first, int64_t groups, void *out) {
    FN(draw)(0, seed, stream, block, rows, first, groups, out);
}

static void FN(gaussians)(uint64_t seed, uint64_t stream, uint64_t block, int64_t rows, uint64_t first, int64_t groups, void *out) {
    FN(draw)(1, seed, stream, block, rows, first, groups, out);
}

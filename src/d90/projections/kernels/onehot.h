/* --- one-hot ------------------------------------------------------------------------------------------------------- */

/* The turns (a_k, b_k) of L periods from `first`. */
typedef struct {
    int64_t first;
    uint32_t a[L], b[L];
} FN(turns_t);

static void FN(turns_draw)(FN(turns_t) *turns, const onehot_t *map, int64_t first) {
    vu w[4];
    vq zero = FN(every)(0), pair = zero, stream = FN(every)(COLUMNS);
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
    FN(words)(map->seed, SIGNS, (uint64_t)block, offset ? 2 : 1, 0, BLOCK / 128, bits);
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
        for (int64_t at = low, high = least(low + job->item_size, t->size); at < high; at += BLOCK) {
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
    strip_job *job = data;
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
static void FN(onehot_fold_here)(const onehot_t *map, const gradient_t *grad, double *z_gradient) {
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
                z_gradient[column] += (double)map->weight[column] * grad->scale * (double)x[j];
            }
        }
    }
}

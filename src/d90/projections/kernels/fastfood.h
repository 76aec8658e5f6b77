/* --- Fastfood ------------------------------------------------------------------------------------------------------- */

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
            if (map->gaussian) FN(gaussians)(map->seed, INNER, (uint64_t)blocks[i], 1, 0, ceil_div(m, 4), gauss);
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

static void FN(fastfood_write_worker)(void *data) {
    write_job *job = data;
    const fastfood_t *map = job->map;
    signs_t plan;
    FN(signs_plan)(&plan, map->m);
    for (int64_t item, low; (item = take(&job->next)) < job->items;) {
        const target_t *t = find_target(job, item, &low);
        FN(write_range)(map, t, low, least(low + job->item_size, t->size), (int)job->streamed, &plan);
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

static void FN(fastfood_fold_worker)(void *data) {
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
                if (map->gaussian) FN(gaussians)(map->seed, INNER, (uint64_t)blocks[i], 1, 0, ceil_div(m, 4), gauss);
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

/* --- dense ----------------------------------------------------------------------------------------------------------
   P is worked through in tiles: at most BLOCK columns of as many rows as TILE words hold, or of all rows where they lie in memory. Rows
   are taken four at a time, the last four filled up with one of them. Nothing below depends on how many rows there are beside one. */

/* Rows row ... row + n - 1 of P from `column` on: returns where they begin, `*apart` words from each other, as Gaussians or sign words. */
ALWAYS const float *FN(tile)(const dense_t *map, int64_t row, int64_t n, int64_t column, int64_t columns, float *scratch, int64_t *apart) {
    if (map->matrix) {
        *apart = map->d;
        return map->matrix + row * map->d + column;
    }
    int64_t in_group = map->gaussian ? 4 : 128, groups = ceil_div(columns, in_group);
    *apart = 4 * groups;
    (map->gaussian ? FN(gaussians) : FN(words))(map->seed, DENSE, (uint64_t)row, n, (uint64_t)(column / in_group), groups, scratch);
    return scratch;
}

/* How many rows of so many columns a tile has: a multiple of four. */
ALWAYS int64_t FN(tile_rows)(const dense_t *map, int64_t columns) {
    return map->matrix ? BLOCK : TILE / (4 * ceil_div(columns, map->gaussian ? 4 : 128)) & ~3;
}

/* x times vector v + i of a row; v is a multiple of the vectors in a sign word. */
ALWAYS vf FN(times)(int sign, const float *row, int64_t v, int i, vf x) {
    return sign ? FN(flip)(x, ((const bits_t *)row)[v * L / 32], i) : x * LOAD(row + (v + i) * L);
}

/* y[q] += row[q] z, for n <= 4 rows; z is 0 beyond `columns`. */
ALWAYS void FN(dots)(int sign, const float *const row[4], int64_t n, int64_t columns, const float *z, double *y) {
    const int step = sign ? 32 / L : 1;
    vf sum[4] = {{0}};
    for (int64_t v = 0; v * L < columns; v += step)
#pragma GCC unroll 8
        for (int i = 0; i < step; i++) {
            vf x = LOAD(z + (v + i) * L);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) sum[q] += FN(times)(sign, row[q], v, i, x);
        }
    for (int q = 0; q < n; q++)
        for (int i = 0; i < L; i++) y[q] += (double)sum[q][i];
}

/* sum += the four rows times g[0 ... 3]. */
ALWAYS void FN(adds)(int sign, const float *const row[4], int64_t columns, const float g[4], float *sum) {
    const int step = sign ? 32 / L : 1;
    vf x[4];
    for (int q = 0; q < 4; q++) x[q] = (vf){0} + g[q];
    for (int64_t v = 0; v * L < columns; v += step)
#pragma GCC unroll 8
        for (int i = 0; i < step; i++) {
            vf y[4];
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) y[q] = FN(times)(sign, row[q], v, i, x[q]);
            STORE(sum + (v + i) * L, LOAD(sum + (v + i) * L) + ((y[0] + y[1]) + (y[2] + y[3])));
        }
}

/* Rows r ... r + 3 of a tile of n, the last one again where there are fewer. */
ALWAYS void FN(four)(const float *tile, int64_t apart, int64_t r, int64_t n, const float *row[4]) {
    for (int q = 0; q < 4; q++) row[q] = tile + least(r + q, n - 1) * apart;
}

/* y = rows row ... row + n - 1 of P times z; n <= BLOCK. */
static void FN(dense_times)(const dense_t *map, const float *z, int64_t row, int64_t n, float *scratch, double *y) {
    float part[BLOCK] ALIGNED;
    memset(y, 0, (size_t)n * sizeof(double));
    for (int64_t column = 0, columns; column < map->d; column += columns) {
        columns = least(BLOCK, map->d - column);
        memset(part, 0, sizeof part);
        memcpy(part, z + column, (size_t)columns * sizeof(float));
        for (int64_t i = 0, rows, apart; i < n; i += rows) {
            rows = least(FN(tile_rows)(map, columns), n - i);
            const float *tile = FN(tile)(map, row + i, rows, column, columns, scratch, &apart), *four[4];
            for (int64_t r = 0; r < rows; r += 4) {
                FN(four)(tile, apart, r, rows, four);
                if (map->gaussian)
                    FN(dots)(0, four, least(4, rows - r), columns, part, y + i + r);
                else
                    FN(dots)(1, four, least(4, rows - r), columns, part, y + i + r);
            }
        }
    }
}

static void FN(dense_write_worker)(void *data) {
    write_job *job = data;
    const dense_t *map = job->map;
    float x[BLOCK] ALIGNED, scratch[TILE + 4 * L] ALIGNED = {0};
    double y[BLOCK] ALIGNED;
    for (int64_t item, low; (item = take(&job->next)) < job->items;) {
        const target_t *t = find_target(job, item, &low);
        int64_t n = least(BLOCK, t->size - low);
        FN(dense_times)(map, t->z, t->first_block + low, n, scratch, y);
        FN(widen)(t->base, t->base_type, low, n, x);
        for (int64_t j = 0; j < n; j++) x[j] += (float)(t->factor * y[j]);
        if (t->out_type == FP32)
            memcpy((float *)t->out + low, x, (size_t)n * sizeof(float));
        else
            FN(round)(x, n, t->out_type, map->seed, (uint64_t)(t->dither_block + low / BLOCK), (uint16_t *)t->out + low);
    }
}

/* sum += g^T P for the n <= BLOCK rows of P from `row` on. */
static void FN(dense_add)(const dense_t *map, const float *g, int64_t row, int64_t n, float *scratch, double *sum) {
    float some[BLOCK] ALIGNED;
    for (int64_t column = 0, columns; column < map->d; column += columns) {
        columns = least(BLOCK, map->d - column);
        memset(some, 0, sizeof some);
        for (int64_t i = 0, rows, apart; i < n; i += rows) {
            rows = least(FN(tile_rows)(map, columns), n - i);
            const float *tile = FN(tile)(map, row + i, rows, column, columns, scratch, &apart), *four[4];
            for (int64_t r = 0; r < rows; r += 4) {
                float x[4];
                for (int q = 0; q < 4; q++) x[q] = r + q < rows ? g[i + r + q] : 0;
                FN(four)(tile, apart, r, rows, four);
                if (map->gaussian)
                    FN(adds)(0, four, columns, x, some);
                else
                    FN(adds)(1, four, columns, x, some);
                if ((i + r + 4) % FOLD_ROWS && i + r + 4 < n) continue;
                for (int64_t j = 0; j < columns; j++) sum[column + j] += (double)some[j], some[j] = 0;
            }
        }
    }
}

/* A gradient is a list of pieces of `width` entries, one after the other in memory, and each over consecutive rows of P. */
static void FN(dense_fold_worker)(void *data) {
    strip_job *job = data;
    const dense_t *map = job->map;
    const gradient_t *grad = job->grad;
    float x[BLOCK] ALIGNED, scratch[TILE + 4 * L] ALIGNED = {0};
    int64_t width = grad->rows ? grad->width : BLOCK, pieces = grad->rows ? grad->row_count : ceil_div(grad->size, BLOCK);
    for (int64_t strip; (strip = take(&job->next)) < job->strips;) {
        double *sum = job->parts + strip * map->d;
        memset(sum, 0, (size_t)map->d * sizeof(double));
        for (int64_t piece = pieces * strip / job->strips; piece < pieces * (strip + 1) / job->strips; piece++) {
            int64_t start = (grad->rows ? grad->rows[piece] : piece) * width, end = least(width, grad->size - start);
            for (int64_t low = 0; low < end; low += BLOCK) {
                int64_t n = least(BLOCK, end - low);
                FN(widen)(grad->g, grad->type, piece * width + low, n, x);
                FN(dense_add)(map, x, grad->first_block + start + low, n, scratch, sum);
            }
        }
    }
}

static void FN(dense_fill_worker)(void *data) {
    fill_job *job = data;
    float scratch[TILE + 4 * L] ALIGNED;
    for (int64_t low, d = job->map->d; (low = BLOCK * take(&job->next)) < job->rows;)
        for (int64_t column = 0, columns; column < d; column += columns) {
            columns = least(BLOCK, d - column);
            for (int64_t row = low, high = least(low + BLOCK, job->rows), n, apart; row < high; row += n) {
                n = least(FN(tile_rows)(job->map, columns), high - row);
                const float *tile = FN(tile)(job->map, row, n, column, columns, scratch, &apart);
                float *out = job->out + row * d + column;
                for (int64_t i = 0; i < n; i++) memcpy(out + i * d, tile + i * apart, (size_t)columns * sizeof(float));
            }
        }
}

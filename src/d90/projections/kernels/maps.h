/* What Python hands over, the jobs the workers share, and how the work is cut. Included once, by d90_kernels.c. */

#define BLOCK 1024
#define ALWAYS static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#define EXPORT __attribute__((visibility("default")))

enum { FP32 = 0, BF16 = 1, FP16 = 2 };
enum { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };
enum { INNER = 1, OUTER = 2, DENSE = 5, COLUMNS = 7, SIGNS = 8, DITHER = 10 }; /* streams, philox.py */

typedef uint32_t bits_t __attribute__((may_alias)); /* the bits of a float, where it lies */
typedef void (*parallel_fn)(void (*)(void *), void *, unsigned, unsigned);

/* One tensor to write: out = base + factor R z. `factor` includes the projection's own s. */
typedef struct {
    const void *base;
    void *out;
    const float *z;
    int64_t size, first_block, dither_block; /* for one-hot and dense, first_block is the first global row */
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

/* Row r of P, in units of `factor`: d Gaussians or signs. */
typedef struct {
    uint64_t seed;
    int64_t d;
    const float *matrix; /* the Gaussians of all rows, then room for a vector; or NULL: drawn at every use */
    int32_t gaussian, path, threads, unused;
    parallel_fn parallel;
    int64_t stream_bytes;
} dense_t;

/* A gradient: whole (rows == NULL) or the rows `rows` (sorted, distinct) of a matrix of this width, the others zero. */
typedef struct {
    const void *g;
    int64_t size, first_block;
    double scale;
    const int64_t *rows;
    int64_t row_count, width;
    int32_t type, unused;
} gradient_t;

#define WRITE_ITEM (64 * BLOCK) /* elements in an item of `write`; BLOCK of them for dense */
#define ALONE (32 * BLOCK)      /* a smaller gradient is not worth waking the other threads */
#define FOLD_ITEMS 64           /* items of `fold`, about */
#define FOLD_STRIPS 16          /* the same for one-hot and dense */
#define FOLD_GROUP 4            /* neighbouring chunks an item sums side by side, so that it reads memory in longer runs */
#define FOLD_LEAST 64           /* blocks worth an item of their own */
#define FOLD_PAIRWISE 16        /* blocks summed in fp32 before they are added to the fp64 sum */
#define FOLD_ROWS 64            /* dense: rows summed in fp32 before that */
#define STRIP (1 << 20)         /* entries of a dense P worth a strip */
#define TILE 4096               /* words of a dense P drawn at once */
#define COUNTERS 64             /* Philox counters drawn at once for the signs */

typedef struct {
    const void *map; /* fastfood_t, onehot_t or dense_t */
    const target_t *targets;
    const int64_t *item_start; /* first item of each target, and the total */
    int64_t target_count, item_size, items, next, streamed;
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
    const void *map; /* onehot_t or dense_t */
    const gradient_t *grad;
    double *parts; /* d sums a strip */
    int64_t strips, next;
} strip_job;

typedef struct {
    const dense_t *map;
    float *out;
    int64_t rows, next;
} fill_job;

static void run(parallel_fn parallel, int threads, void (*worker)(void *), void *job) {
    if (parallel && threads > 1)
        parallel(worker, job, (unsigned)threads, 0);
    else
        worker(job);
}

static int64_t take(int64_t *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
ALWAYS int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
ALWAYS int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Write all tensors in one pass. Returns 0, or 1 when memory ran out (nothing is written then). */
static int write_all(const void *map, const target_t *targets, int64_t count, int64_t item_size, parallel_fn parallel, int threads,
                     int64_t stream_bytes, void (*worker)(void *)) {
    int64_t *item_start = malloc((size_t)(count + 1) * sizeof(int64_t)), bytes = 0;
    if (!item_start) return 1;
    item_start[0] = 0;
    for (int64_t i = 0; i < count; i++) {
        item_start[i + 1] = item_start[i] + ceil_div(targets[i].size, item_size);
        bytes += targets[i].size * (targets[i].out_type == FP32 ? 4 : 2);
    }
    write_job job = {map, targets, item_start, count, item_size, item_start[count], 0, bytes > stream_bytes};
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
    *low = (item - job->item_start[a]) * job->item_size;
    return job->targets + a;
}

/* The sums of all strips, d each, into job->parts[0 ... d), which is the caller's to free. Returns 0, or 1 when memory ran out. */
static int sum_strips(strip_job *job, int64_t d, parallel_fn parallel, int threads, void (*worker)(void *)) {
    job->parts = malloc((size_t)(job->strips * d) * sizeof(double));
    if (!job->parts) return 1;
    run(parallel, (int)least(threads, job->strips), worker, job);
    for (int64_t strip = 1; strip < job->strips; strip++)
        for (int64_t j = 0; j < d; j++) job->parts[j] += job->parts[strip * d + j];
    return 0;
}

/*
 * merge_few.c - a merge of two to sixteen sources: the shape of nearly every read, and of most compactions.
 *
 * Keys that meet in a merge share a long beginning and differ in a few bytes behind it. Those few are the *window*:
 * each source has a head, a number made of the seven bytes of its key at the window, and the smallest head is the
 * smallest key. Neither a winner is played for nor a key compared: a step is the moves of all sources on the key that
 * was shown (it is known which they are: the heads that tie), one head for each, and the least of a few integers.
 *
 *     svc.000001a4.route.00000c          head     63                      8 7      0
 *     |---- shared -------|window|                | 7 bytes, zero-padded   | rest+2 |   rest: bytes of the key from the
 *                                                                                      window on, 8 for more than 7
 *
 * A key that does not begin with the shared bytes is *beyond* the window: it comes after all keys that do, for what
 * was shown began with them and keys ascend. When nothing is left in the window, or keys that tie go on behind it, it
 * is moved to where the smallest keys differ, three bytes early: so it lasts for the next 16^3 of keys that count in
 * hexadecimal. Backward the heads are complemented; nothing else changes.
 *
 *   H1  A head is HEAD_ENDED (no key), HEAD_BEYOND, or that of a key that begins with the shared bytes.
 *   H2  Heads with rest <= 7 that are equal have equal keys. Ties of longer keys are never shown: the window moves.
 *   H3  On an entry, `ties` are the sources on the key shown, and `leader` is the lowest of them.
 *
 * Why not the tournament of loser_tree.h for these, too: it plays log2(n) matches for each entry, shown or passed over,
 * and compares each key with the last one shown. Here an entry that is passed over costs its head. Beyond sixteen
 * sources that have no keys in common the tournament wins.
 */
#include "compaction/merge_internal.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mutation.h"

#include <string.h>

#define HEAD_ENDED UINT64_MAX
#define HEAD_BEYOND (UINT64_MAX - 1)
#define HEAD_REST_MASK 0xffu
#define HEAD_REST_BIAS 2u /* keeps heads, also complemented ones, below HEAD_BEYOND and apart from zero */
#define HEAD_REST_MORE 8u
#define WINDOW_BYTES 7u
#define WINDOW_EARLY 3u
#define SHARED_BYTES_INLINE 96u

static_assert(WINDOW_EARLY < WINDOW_BYTES, "moving the window moves it on");
static_assert(MERGE_FEW_MAX <= 32, "a bit of `ties` a source");

struct few {
    struct merge merge; /* first */
    uint32_t ties; /* H3: a bit a source */
    uint32_t leader;
    uint64_t heads[MERGE_FEW_MAX];
    uint64_t flip; /* backward: all ones */
    size_t shared_bytes;
    size_t shared_capacity;
    uint8_t *shared; /* shared_inline, or a block of mem; at least 8 bytes may be read */
    uint8_t shared_inline[SHARED_BYTES_INLINE];
    struct source *sources[MERGE_FEW_MAX];
};

static struct few *few_of(struct source *source) {
    return (struct few *)(void *)source; /* the merge's source is the first member of both */
}

/* ---- heads ------------------------------------------------------------------------------------------------------ */

static inline uint64_t load_8(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Whether the key begins with the shared bytes. Reads nothing beyond it. */
static inline bool few_shares(const struct few *few, const uint8_t *key, size_t key_bytes) {
    size_t bytes = few->shared_bytes;
    if (UNLIKELY(key_bytes < bytes)) {
        return false;
    }
    if (MUTATION(merge_shared)) {
        return true;
    }
    if (LIKELY(bytes >= 8)) {
        for (size_t i = 0; i + 8 < bytes; i += 8) { /* leaving early keeps it what it is: two or three words */
            if (UNLIKELY(load_8(few->shared + i) != load_8(key + i))) {
                return false;
            }
        }
        return load_8(few->shared + bytes - 8) == load_8(key + bytes - 8);
    }
    if (LIKELY(key_bytes >= 8)) {
        uint64_t mask = LE64(((uint64_t)1 << (8 * bytes)) - 1);
        return ((load_8(few->shared) ^ load_8(key)) & mask) == 0;
    }
    return bytes == 0 || memcmp(few->shared, key, bytes) == 0;
}

static inline uint64_t few_head(const struct few *few, const struct entry *entry) {
    const uint8_t *key = entry->key;
    size_t key_bytes = entry->key_bytes;
    if (UNLIKELY(!few_shares(few, key, key_bytes))) {
        return HEAD_BEYOND;
    }
    size_t rest = key_bytes - few->shared_bytes;
    uint64_t head;
    if (rest > WINDOW_BYTES) {
        head = (BE64(load_8(key + few->shared_bytes)) & ~(uint64_t)HEAD_REST_MASK) | (HEAD_REST_MORE + HEAD_REST_BIAS);
    } else {
        head = rest + HEAD_REST_BIAS;
        if (LIKELY(rest > 0)) { /* the key's last 8 bytes, when it has them, shifted */
            uint64_t bytes = key_bytes >= 8 ? BE64(load_8(key + key_bytes - 8)) << (8 * (8 - rest))
                                            : key_head(key, key_bytes, few->shared_bytes);
            head |= bytes;
        }
    }
    return head ^ few->flip;
}

static inline bool head_goes_on(const struct few *few, uint64_t head) {
    return ((head ^ few->flip) & HEAD_REST_MASK) == HEAD_REST_MORE + HEAD_REST_BIAS;
}

static int few_reserve(struct few *few, size_t bytes) {
    if (LIKELY(bytes <= few->shared_capacity)) {
        return 0;
    }
    size_t capacity = bytes * 2 < LIMIT_KEY_BYTES ? bytes * 2 : bytes;
    uint8_t *grown = mem_alloc(few->merge.mem, capacity);
    if (grown == NULL) {
        return error_no_memory(&few->merge.source.error, "the key of a merge", capacity);
    }
    if (few->shared != few->shared_inline) {
        mem_free(few->merge.mem, few->shared);
    }
    few->shared = grown;
    few->shared_capacity = capacity;
    return 0;
}

/* Moves the window to where the keys of `among` differ, those that may come next, and makes all heads anew. */
static __attribute__((noinline)) int few_window(struct few *few, uint32_t among) {
    const struct entry *one = &few->sources[__builtin_ctz(among)]->entry;
    size_t common = one->key_bytes;
    for (uint32_t others = among & (among - 1); others != 0; others &= others - 1) {
        const struct entry *other = &few->sources[__builtin_ctz(others)]->entry;
        common = key_common(one->key, common, other->key, other->key_bytes);
    }
    size_t bytes = common > WINDOW_EARLY ? common - WINDOW_EARLY : 0;
    if (UNLIKELY(few_reserve(few, bytes) < 0)) {
        return PLEAT_ERR_NO_MEMORY;
    }
    few->shared_bytes = bytes;
    if (bytes > 0) {
        memcpy(few->shared, one->key, bytes);
    }
    for (size_t i = 0; i < few->merge.count; i++) {
        if (few->heads[i] != HEAD_ENDED) {
            few->heads[i] = few_head(few, &few->sources[i]->entry);
        }
    }
    return 0;
}

/* ---- showing ---------------------------------------------------------------------------------------------------- */

/* The sources with the least head. Unrolled: a vector would be loaded before the words stored last have met. */
static inline uint32_t heads_least(const uint64_t *heads, size_t count, uint64_t *ret_least) {
    uint64_t least = heads[0];
#pragma GCC unroll 16
    for (size_t i = 1; i < MERGE_FEW_MAX; i++) {
        if (i == count) {
            break;
        }
        least = heads[i] < least ? heads[i] : least;
    }
    uint32_t ties = 0;
#pragma GCC unroll 16
    for (size_t i = 0; i < MERGE_FEW_MAX; i++) {
        if (i == count) {
            break;
        }
        ties |= (uint32_t)(heads[i] == least) << i;
    }
    *ret_least = least;
    return ties;
}

/* Shows the least of the heads (G1). */
static inline int few_show(struct few *few) {
    for (;;) {
        size_t count = few->merge.count;
        uint64_t least;
        uint32_t ties = heads_least(few->heads, count, &least);
        bool goes_on = (ties & (ties - 1)) != 0 && head_goes_on(few, least) && !MUTATION(merge_ties); /* H2 */
        bool is_settled = least < HEAD_BEYOND && !goes_on;
        if (LIKELY(is_settled)) {
            few->ties = ties;
            few->leader = (uint32_t)__builtin_ctz(ties);
            few->merge.source.entry = few->sources[few->leader]->entry;
            return 0;
        }
        if (least == HEAD_ENDED) {
            return PLEAT_END;
        }
        int rc = few_window(few, ties);
        if (rc < 0) {
            return rc;
        }
    }
}

static inline int few_take(struct few *few, uint32_t i, int rc) {
    if (UNLIKELY(rc < 0)) {
        return merge_fail(&few->merge, few->sources[i], rc);
    }
    few->heads[i] = rc == 0 ? few_head(few, &few->sources[i]->entry) : HEAD_ENDED;
    return 0;
}

static int few_position(struct few *few, enum motion motion, const uint8_t *key, size_t key_bytes) {
    few->merge.is_backward = motion == MOTION_LAST || motion == MOTION_SEEK_BEFORE;
    few->flip = few->merge.is_backward ? UINT64_MAX : 0;
    for (size_t i = 0; i < few->merge.count; i++) {
        int rc = source_move(few->sources[i], motion, key, key_bytes);
        if (UNLIKELY(rc < 0)) {
            return merge_fail(&few->merge, few->sources[i], rc);
        }
        few->heads[i] = rc == 0 ? HEAD_BEYOND : HEAD_ENDED; /* no window is there yet */
    }
    return few_show(few);
}

/* Puts every other source behind the current key in the new direction; the leader still stands on it (G2). */
static int few_turn(struct few *few, bool is_backward) {
    const struct entry *shown = &few->merge.source.entry;
    few->merge.is_backward = is_backward;
    few->flip = is_backward ? UINT64_MAX : 0;
    few->ties = (uint32_t)1 << few->leader;
    for (uint32_t i = 0; i < few->merge.count; i++) {
        struct source *source = few->sources[i];
        if (i == few->leader) {
            continue;
        }
        int rc = source_move(source, is_backward ? MOTION_SEEK_BEFORE : MOTION_SEEK, shown->key, shown->key_bytes);
        rc = few_take(few, i, rc);
        if (rc < 0) {
            return rc;
        }
        if (few->heads[i] != HEAD_ENDED && !MUTATION(merge_turn) &&
            key_compare(source->entry.key, source->entry.key_bytes, shown->key, shown->key_bytes) == 0) {
            few->ties |= (uint32_t)1 << i;
        }
    }
    return 0;
}

static inline int few_step(struct few *few, bool is_backward) {
    if (UNLIKELY(few->merge.is_backward != is_backward)) {
        int rc = few_turn(few, is_backward);
        if (rc < 0) {
            return rc;
        }
    }
    few->merge.hidden += (uint32_t)__builtin_popcount(few->ties) - 1;
    for (uint32_t ties = few->ties; ties != 0; ties &= ties - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(ties);
        int rc = source_step(few->sources[i], is_backward);
        if (UNLIKELY(rc < 0)) {
            return merge_fail(&few->merge, few->sources[i], rc);
        }
        few->heads[i] = rc == 0 ? 0 : HEAD_ENDED;
    }
    /* Heads are made when all have moved: a key that has just been put together is slow to read. */
    for (uint32_t ties = few->ties; ties != 0; ties &= ties - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(ties);
        if (few->heads[i] != HEAD_ENDED) {
            few->heads[i] = few_head(few, &few->sources[i]->entry);
        }
    }
    return few_show(few);
}

/* ---- as a source ------------------------------------------------------------------------------------------------ */

static int few_first(struct source *source) {
    return few_position(few_of(source), MOTION_FIRST, NULL, 0);
}

static int few_last(struct source *source) {
    return few_position(few_of(source), MOTION_LAST, NULL, 0);
}

static int few_seek(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return few_position(few_of(source), MOTION_SEEK, key, key_bytes);
}

static int few_seek_before(struct source *source, const uint8_t *key, size_t key_bytes) {
    merge_prepare(source, key, key_bytes);
    return few_position(few_of(source), MOTION_SEEK_BEFORE, key, key_bytes);
}

static int few_next(struct source *source) {
    return few_step(few_of(source), false);
}

static int few_prev(struct source *source) {
    return few_step(few_of(source), true);
}

static void few_free(struct source *source) {
    struct few *few = few_of(source);
    merge_free_sources(&few->merge);
    if (few->shared != few->shared_inline) {
        mem_free(few->merge.mem, few->shared);
    }
    mem_free(few->merge.mem, few);
}

static const struct source_ops few_ops = {
    .first = few_first,
    .last = few_last,
    .seek = few_seek,
    .seek_before = few_seek_before,
    .next = few_next,
    .prev = few_prev,
    .prepare = merge_prepare,
    .free = few_free,
};

size_t merge_few_bytes(void) {
    return sizeof(struct few);
}

void merge_few_init(struct merge *merge, struct source *const *sources) {
    struct few *few = (struct few *)merge;
    ASSERT(merge->count >= 2 && merge->count <= MERGE_FEW_MAX);
    memcpy(few->sources, sources, merge->count * sizeof(struct source *));
    merge->sources = few->sources;
    merge->source.ops = &few_ops;
    few->ties = 1;
    few->leader = 0;
    few->shared_bytes = 0;
    few->shared_capacity = SHARED_BYTES_INLINE;
    few->shared = few->shared_inline;
}

/* ---- for compaction --------------------------------------------------------------------------------------------- */

bool merge_few_is(const struct source *source) {
    return source->ops == &few_ops;
}

struct source *merge_few_winner(struct merge *merge) {
    return ((struct few *)merge)->sources[((struct few *)merge)->leader];
}

bool merge_few_others_beyond(const struct merge *merge, const uint8_t *key, size_t key_bytes) {
    const struct few *few = (const struct few *)merge;
    ASSERT(!merge->is_backward);
    for (size_t i = 0; i < merge->count; i++) {
        const struct entry *entry = &few->sources[i]->entry;
        if (i != few->leader && few->heads[i] != HEAD_ENDED &&
            key_compare(entry->key, entry->key_bytes, key, key_bytes) <= 0) {
            return false;
        }
    }
    return true;
}

int merge_few_resume(struct merge *merge, int rc) {
    struct few *few = (struct few *)merge;
    ASSERT(!merge->is_backward);
    rc = few_take(few, few->leader, rc);
    if (rc < 0) {
        return rc;
    }
    /* Whatever else was on the key shown is moved as in a step; the leader has been. */
    merge->hidden += (uint32_t)__builtin_popcount(few->ties) - 1;
    for (uint32_t ties = few->ties & (few->ties - 1); ties != 0; ties &= ties - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(ties);
        rc = few_take(few, i, few->sources[i]->ops->next(few->sources[i]));
        if (rc < 0) {
            return rc;
        }
    }
    return few_show(few);
}

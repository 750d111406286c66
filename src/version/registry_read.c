/*
 * registry_read.c - what others ask the registry: the current version, facts, cursors, which tables it knows.
 *
 * Everything but registry_has_table takes only the state mutex, which is never held over a system call.
 */
#include "base/assert.h"
#include "base/error.h"
#include "version/registry_internal.h"

#include <inttypes.h>

struct version *registry_current(struct registry *registry) {
    mutex_lock(&registry->state_mutex);
    struct version *version = registry->current;
    version_ref(version);
    mutex_unlock(&registry->state_mutex);
    return version;
}

const struct table_store *registry_store(const struct registry *registry) {
    return &registry->store;
}

int registry_health(struct registry *registry, struct pleat_error *err) {
    mutex_lock(&registry->state_mutex);
    int rc = registry->poison.code;
    if (rc != 0) {
        (void)error_set(err, rc, registry->poison.os_errno, "%s", registry->poison.message);
    }
    mutex_unlock(&registry->state_mutex);
    return rc;
}

void registry_state_read(struct registry *registry, struct registry_state *ret_state) {
    mutex_lock(&registry->state_mutex);
    *ret_state = (struct registry_state){
        .history = registry->facts.history,
        .history_sequence = registry->facts.history_sequence,
        .last_sequence = registry->facts.last_sequence,
        .log_floor = registry->facts.log_floor,
        .log_synced = registry->facts.log_synced,
        .next_space = registry->facts.space_bound,
        .number_bound = registry->facts.number_bound,
        .clean = registry->facts.clean,
        .edition = registry->edition,
        .manifest_bytes = registry->manifest_bytes,
        .edits = registry->edits,
    };
    mutex_unlock(&registry->state_mutex);
}

int registry_edition_verify(struct registry *registry, struct edition edition, const char *witness,
                            struct pleat_error *err) {
    struct registry_state state;
    registry_state_read(registry, &state);
    if (!edition_is_below(state.edition, edition)) {
        return 0;
    }
    bool is_older = state.edition.incarnation < edition.incarnation;
    return error_set(err, PLEAT_ERR_CORRUPT, 0,
                     MANIFEST_NAME ": damaged at offset %" PRIu64
                                   ": an older one than %s knows: edition: expected %" PRIu64 ".%" PRIu64
                                   " or later, found %" PRIu64 ".%" PRIu64
                                   " (was it put back on purpose? then remove %s)",
                     is_older ? UINT64_C(32) : state.manifest_bytes, witness, edition.incarnation, edition.frames,
                     state.edition.incarnation, state.edition.frames, witness);
}

int registry_cursors(struct registry *registry, struct cursor_set *ret_cursors, struct pleat_error *err) {
    /* Memory is found unlocked, so the set may have grown meanwhile: then once more. */
    for (;;) {
        mutex_lock(&registry->state_mutex);
        size_t count = registry->cursors.count;
        if (ret_cursors->capacity >= count) {
            cursor_set_assign(ret_cursors, &registry->cursors);
            mutex_unlock(&registry->state_mutex);
            return 0;
        }
        mutex_unlock(&registry->state_mutex);
        ret_cursors->count = 0;
        int rc = cursor_set_reserve(ret_cursors, count, err);
        if (rc < 0) {
            return rc;
        }
    }
}

/* ---- known tables ----------------------------------------------------------------------------------------------- */

static void numbers_sift(uint64_t *numbers, size_t root, size_t count) {
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && numbers[child] < numbers[child + 1]) {
            child++;
        }
        if (numbers[root] >= numbers[child]) {
            return;
        }
        uint64_t swap = numbers[root];
        numbers[root] = numbers[child];
        numbers[child] = swap;
    }
}

static void numbers_sort(uint64_t *numbers, size_t count) {
    for (size_t root = count / 2; root-- > 0;) {
        numbers_sift(numbers, root, count);
    }
    for (size_t end = count; end-- > 1;) {
        uint64_t swap = numbers[0];
        numbers[0] = numbers[end];
        numbers[end] = swap;
        numbers_sift(numbers, 0, end);
    }
}

/* Writes the numbers of all tables of the version to `numbers` (NULL: counts only). */
static size_t version_numbers(const struct version *version, uint64_t *numbers) {
    size_t count = 0;
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        for (unsigned i = 0; tree != NULL && i < LIMIT_LEVELS; i++) {
            for (size_t t = 0; t < tree->levels[i].count; t++) {
                if (numbers != NULL) {
                    numbers[count] = tree->levels[i].tables[t]->meta.number;
                }
                count++;
            }
        }
    }
    return count;
}

static bool version_has_number(const struct version *version, uint64_t number) {
    for (uint32_t slot = 0; slot < version->slots; slot++) {
        const struct tree *tree = version->trees[slot];
        for (unsigned i = 0; tree != NULL && i < LIMIT_LEVELS; i++) {
            for (size_t t = 0; t < tree->levels[i].count; t++) {
                if (tree->levels[i].tables[t]->meta.number == number) {
                    return true;
                }
            }
        }
    }
    return false;
}

/* The sweep asks once a file: the numbers are sorted once a version. Without memory for that it looks everywhere. */
bool registry_has_table(struct registry *registry, uint64_t number) {
    const struct mem *mem = registry->store.mem;
    bool has = false;
    mutex_lock(&registry->manifest_mutex);
    const struct version *version = registry->current;
    if (registry->numbers == NULL || registry->numbers_version != version->number) {
        mem_free(mem, registry->numbers);
        size_t count = version_numbers(version, NULL);
        registry->numbers = mem_alloc(mem, count * sizeof *registry->numbers);
        if (registry->numbers == NULL) {
            has = version_has_number(version, number);
            goto done;
        }
        registry->numbers_count = version_numbers(version, registry->numbers);
        registry->numbers_version = version->number;
        numbers_sort(registry->numbers, registry->numbers_count);
    }
    size_t low = 0, high = registry->numbers_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (registry->numbers[middle] < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    has = low < registry->numbers_count && registry->numbers[low] == number;
done:
    mutex_unlock(&registry->manifest_mutex);
    return has;
}

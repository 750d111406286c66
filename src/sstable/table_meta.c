/*
 * table_meta.c - what a table is called, what the manifest keeps of it, and how keys form groups.
 *
 * A group is a prefix that a key determines by itself: its first n bytes, or everything up to its n-th delimiter. As
 * the group ends at a fixed place, keys of one group are neighbours in the order, and a prefix that is long enough to
 * have a group shares it with every key below it. That is what makes one filter probe a group sound.
 */
#include "base/bytes.h"
#include "base/error.h"
#include "base/hash.h"
#include "sstable/table.h"

#include <inttypes.h>
#include <stdio.h>

/* Any constant but 0: the hash of a group must differ from hash_key of a key that consists of the same bytes. */
#define TABLE_GROUP_SEED 0x9d1f6a7b3c5e2481ull

void table_name(uint64_t number, char ret_name[TABLE_NAME_BYTES]) {
    (void)snprintf(ret_name, TABLE_NAME_BYTES, "%06" PRIu64 ".tbl", number);
}

bool table_name_parse(const char *name, uint64_t *ret_number) {
    uint64_t number = 0;
    const char *p = name;
    for (; *p >= '0' && *p <= '9'; p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (number > (UINT64_MAX - digit) / 10) {
            return false;
        }
        number = number * 10 + digit;
    }
    /* One name a number: whatever would not be written so is not ours. */
    char canonical[TABLE_NAME_BYTES];
    table_name(number, canonical);
    if (strcmp(name, canonical) != 0) {
        return false;
    }
    *ret_number = number;
    return true;
}

size_t table_group_bytes(const struct table_grouping *grouping, const uint8_t *key, size_t key_bytes) {
    if (grouping->bytes > 0) {
        return key_bytes >= grouping->bytes ? grouping->bytes : 0;
    }
    size_t end = 0;
    for (uint32_t i = 0; i < grouping->delimiters; i++) {
        const uint8_t *found = end < key_bytes ? memchr(key + end, grouping->delimiter, key_bytes - end) : NULL;
        if (found == NULL) {
            return 0;
        }
        end = (size_t)(found - key) + 1;
    }
    return end;
}

uint64_t table_group_hash(const uint8_t *group, size_t group_bytes) {
    return hash_bytes(group, group_bytes, TABLE_GROUP_SEED);
}

int table_meta_copy(const struct mem *mem, const struct table_meta *from, struct table_meta *ret_to) {
    struct table_meta copy = *from;
    copy.smallest = mem_copy(mem, from->smallest, from->smallest_bytes);
    copy.largest = mem_copy(mem, from->largest, from->largest_bytes);
    if (copy.smallest == NULL || copy.largest == NULL) {
        table_meta_fini(mem, &copy);
        return PLEAT_ERR_NO_MEMORY;
    }
    *ret_to = copy;
    return 0;
}

void table_meta_fini(const struct mem *mem, struct table_meta *meta) {
    mem_free(mem, meta->smallest);
    mem_free(mem, meta->largest);
    meta->smallest = NULL;
    meta->largest = NULL;
}

int table_store_sync(const struct table_store *store, struct vfs_file *file, struct pleat_error *err) {
    struct pleat_error failure = {0};
    int rc = store->vfs->file_sync(file, &failure);
    if (rc == 0) {
        return 0;
    }
    if (store->on_sync_failed != NULL) {
        store->on_sync_failed(store->sync_context, &failure);
    }
    return error_set(err, rc, failure.os_errno, "%s", failure.message);
}

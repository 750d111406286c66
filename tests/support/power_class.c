/* power_class.c - see power_class.h. */
#include "support/power_class.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *power_class_name(enum power_class class) {
    static const char *const names[CLASSES] = {
        "later segment kept, earlier tail lost",
        "later segment kept, earlier name lost",
        "torn record",
        "hole in the log",
        "segment empty",
        "torn manifest frame",
        "manifest frame in halves",
        "rename lost",
        "table without name",
        "name without table",
        "torn table",
        "unlink undone",
        "no manifest",
        "tail cut, new history",
        "nothing lost, new history",
        "operation under way is in",
        "clean, history goes on",
        "creation under way undone",
        "creation under way done",
        "drop under way undone",
        "drop under way done",
    };
    return names[class];
}

/*
 * Images of a kind come in heaps: neighbouring stops leave the same. So what counts is not their rate but the longest
 * run G of images of lives without one. Were the gaps between heaps exponential with mean m, a campaign of T images
 * would have G of about m ln(T / m), and none in 8 G has the probability (m / T)^8. From four campaigns of 16,351 to
 * 23,166 images of lives each, one stop in 4 or 16 (crash_store prints the runs), 8 times the longest run of all four,
 * rounded up; m / T was about 1 / 25 at most.
 *
 * The creation of a store comes once a history, those of spaces at its beginning and after drops: they are due by
 * histories. Their stops are all taken; of 14 histories that were broken off after 700 images all had been without a
 * manifest, and 9 had come to each outcome of a space's creation.
 */
bool power_class_is_due(enum power_class class, uint64_t images, uint64_t histories) {
    static const uint32_t due[CLASSES] = {
        [CLASS_SEGMENT_BEHIND_HOLE] = 6000, [CLASS_RECORD_TORN] = 3000,         [CLASS_LOG_HOLE] = 14000,
        [CLASS_LOG_EMPTY] = 4000,           [CLASS_MANIFEST_TORN] = 17000,      [CLASS_MANIFEST_HEADLESS] = 22000,
        [CLASS_RENAME_LOST] = 58000,        [CLASS_TABLE_WITHOUT_NAME] = 23000, [CLASS_NAME_WITHOUT_TABLE] = 19000,
        [CLASS_TABLE_TORN] = 22000,         [CLASS_UNLINK_UNDONE] = 4000,       [CLASS_TAIL_CUT] = 12000,
        [CLASS_NOTHING_LOST] = 2000,        [CLASS_IN_FLIGHT] = 11000,          [CLASS_CLEAN] = 52000,
        [CLASS_DROP_UNDONE] = 77000,        [CLASS_DROP_DONE] = 81000,
    };
    return due[class] > 0 ? images >= due[class] : histories >= 6;
}

void power_class_print(const uint64_t counts[CLASSES], const uint64_t gaps[CLASSES], uint64_t images) {
    printf("images of each kind, so many of 1,000, and the most images of lives in a row without it:\n");
    for (unsigned i = 0; i < CLASSES; i++) {
        printf("%12" PRIu64 " %8.2f %8" PRIu64 "  %s\n", counts[i],
               (double)counts[i] * 1000 / (double)(images > 0 ? images : 1), gaps[i],
               power_class_name((enum power_class)i));
    }
}

struct classes {
    struct simfs *disk;
    bool seen[CLASSES];
    bool has_manifest;
    uint64_t segment_lost_name; /* the lowest segment that lost its name; UINT64_MAX: none */
    uint64_t segment_lost_tail; /* ... that lost a write at its end */
    uint64_t segment_kept;      /* the highest segment that was begun and has something that was pending */
};

/* Whether the segment has a header on the disk: one that was made ahead holds nothing that could be kept. */
static bool is_begun(struct simfs *disk, const char *name) {
    static const uint8_t none[8];
    size_t bytes;
    uint8_t *content = simfs_read_file(disk, "store", name, &bytes);
    bool begun = content != NULL && bytes >= sizeof none && memcmp(content, none, sizeof none) != 0;
    free(content);
    return begun;
}

static void class_of_segment(struct classes *classes, const struct simfs_fate *fate, uint64_t number) {
    if (fate->live && !fate->there && number < classes->segment_lost_name) {
        classes->segment_lost_name = number;
    }
    if (!fate->there) {
        return;
    }
    if ((fate->lost > 0 || fate->torn > 0) && number < classes->segment_lost_tail) {
        classes->segment_lost_tail = number;
    }
    if (fate->kept > 0 && number > classes->segment_kept && is_begun(classes->disk, fate->name)) {
        classes->segment_kept = number;
    }
    classes->seen[CLASS_RECORD_TORN] |= fate->torn > 0;
    classes->seen[CLASS_LOG_HOLE] |= fate->hole;
    classes->seen[CLASS_LOG_EMPTY] |= fate->was_empty && fate->lost > 0 && fate->kept + fate->torn == 0;
}

static void class_of_file(void *context, const struct simfs_fate *fate) {
    struct classes *classes = context;
    uint64_t number;
    classes->seen[CLASS_UNLINK_UNDONE] |= fate->durable && !fate->live && fate->there;
    if (wal_name_parse(fate->name, &number)) {
        class_of_segment(classes, fate, number);
    } else if (table_name_parse(fate->name, &number)) {
        unsigned pending = fate->kept + fate->torn + fate->lost;
        classes->seen[CLASS_TABLE_WITHOUT_NAME] |= fate->live && !fate->there && pending == 0 && !fate->was_empty;
        classes->seen[CLASS_NAME_WITHOUT_TABLE] |=
            fate->there && fate->was_empty && fate->lost > 0 && fate->kept + fate->torn == 0;
        classes->seen[CLASS_TABLE_TORN] |= fate->there && (fate->torn > 0 || (fate->kept > 0 && fate->lost > 0));
    } else if (strcmp(fate->name, "MANIFEST") == 0) {
        classes->has_manifest |= fate->there;
        classes->seen[CLASS_MANIFEST_TORN] |= fate->there && fate->torn > 0;
        classes->seen[CLASS_MANIFEST_HEADLESS] |= fate->there && fate->kept > 0 && fate->lost > 0;
    } else if (strcmp(fate->name, "MANIFEST.new") == 0) {
        classes->seen[CLASS_RENAME_LOST] |= !fate->durable && !fate->live && fate->there;
    }
}

void power_class_of_image(struct simfs *disk, struct simfs *image, uint64_t counts[CLASSES]) {
    struct classes classes = {.disk = disk, .segment_lost_name = UINT64_MAX, .segment_lost_tail = UINT64_MAX};
    simfs_fates(disk, image, class_of_file, &classes);
    classes.seen[CLASS_SEGMENT_BEHIND_HOLE] = classes.segment_kept > classes.segment_lost_tail;
    classes.seen[CLASS_SEGMENT_MISSING] = classes.segment_kept > classes.segment_lost_name;
    classes.seen[CLASS_NO_STORE] = !classes.has_manifest;
    for (unsigned i = 0; i < CLASSES; i++) {
        counts[i] += classes.seen[i];
    }
}

void power_class_of_found(const struct power_path *path, const struct power_found *found, uint64_t counts[CLASSES]) {
    bool known = false;
    for (size_t i = 0; i < path->seen_count; i++) {
        known = known || path->seen[i].history == found->history;
    }
    if (path->opened) {
        counts[CLASS_TAIL_CUT] += found->sequence < path->returned;
        counts[CLASS_NOTHING_LOST] += found->sequence >= path->returned && !known;
        counts[CLASS_IN_FLIGHT] += found->sequence > path->returned;
        counts[CLASS_CLEAN] += known;
    }
    for (unsigned k = 0; k < LIVES_SPACES; k++) {
        bool there = (found->exists >> k & 1u) != 0;
        counts[CLASS_CREATE_UNDONE] += path->spaces[k] == POWER_MAYBE && !there;
        counts[CLASS_CREATE_DONE] += path->spaces[k] == POWER_MAYBE && there;
        counts[CLASS_DROP_UNDONE] += path->dropping[k] != 0 && there;
        counts[CLASS_DROP_DONE] += path->dropping[k] != 0 && !there;
    }
}

/* power_class.c - see power_class.h. */
#include "support/power_class.h"

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

struct classes {
    bool seen[CLASSES];
    bool has_manifest;
    uint64_t segment_lost_name; /* the lowest segment that lost its name; UINT64_MAX: none */
    uint64_t segment_lost_tail; /* ... that lost a write at its end */
    uint64_t segment_kept;      /* the highest segment that has something that was pending */
};

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
    if (fate->kept > 0 && number > classes->segment_kept) {
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
    struct classes classes = {.segment_lost_name = UINT64_MAX, .segment_lost_tail = UINT64_MAX};
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

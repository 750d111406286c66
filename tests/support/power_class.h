/* power_class.h - which kinds of crash images a campaign has seen: one that never saw a kind has not tested it. */
#ifndef PLEAT_TESTS_POWER_CLASS_H
#define PLEAT_TESTS_POWER_CLASS_H

#include "support/power.h"

enum power_class {
    CLASS_SEGMENT_BEHIND_HOLE, /* a later log segment has what an earlier one lost at its end */
    CLASS_SEGMENT_MISSING,     /* a later log segment is there, an earlier one's name is lost: must not be */
    CLASS_RECORD_TORN,         /* a write to a log is there in part */
    CLASS_LOG_HOLE,            /* a write to a log was lost or torn in front of one that was kept */
    CLASS_LOG_EMPTY,           /* a log segment has its name and nothing else */
    CLASS_MANIFEST_TORN,       /* an append to the manifest is there in part */
    CLASS_MANIFEST_HEADLESS,   /* a frame's payload or its header is there without the other */
    CLASS_RENAME_LOST,         /* the manifest's replacement has its old name */
    CLASS_TABLE_WITHOUT_NAME,  /* a table's contents are durable, its name is lost */
    CLASS_NAME_WITHOUT_TABLE,  /* a table's name is there, its contents are lost */
    CLASS_TABLE_TORN,          /* a table is there in part */
    CLASS_UNLINK_UNDONE,       /* a file that had been removed is back */
    CLASS_NO_STORE,            /* there is no manifest */
    CLASS_TAIL_CUT,            /* applied commits were lost: a new history */
    CLASS_NOTHING_LOST,        /* a new history all the same */
    CLASS_IN_FLIGHT,           /* the operation under way is there */
    CLASS_CLEAN,               /* the history goes on */
    CLASS_CREATE_UNDONE,       /* a space whose creation was under way is not there ... */
    CLASS_CREATE_DONE,         /* ... is there */
    CLASS_DROP_UNDONE,         /* a space whose drop was under way is there ... */
    CLASS_DROP_DONE,           /* ... is not there */
    CLASSES,
};

const char *power_class_name(enum power_class class);
/* Whether a campaign of so many images of lives, and whole histories, that has none of this class is no accident (less
 * than one in a million). */
bool power_class_is_due(enum power_class class, uint64_t images, uint64_t histories);
/* Of each class: how many of the images, how many of 1,000, and the longest run of images of lives without it. */
void power_class_print(const uint64_t counts[CLASSES], const uint64_t gaps[CLASSES], uint64_t images);
/* Counts the classes of an image that was just made of `disk` (before it is opened). */
void power_class_of_image(struct simfs *disk, struct simfs *image, uint64_t counts[CLASSES]);
/* Counts the classes of what it was found to be. */
void power_class_of_found(const struct power_path *path, const struct power_found *found, uint64_t counts[CLASSES]);

#endif

/*
 * registry_internal.h - the registry's own fields.
 */
#ifndef PLEAT_VERSION_REGISTRY_INTERNAL_H
#define PLEAT_VERSION_REGISTRY_INTERNAL_H

#include "platform/thread.h"
#include "sstable/table_files.h"
#include "version/manifest.h"
#include "version/version_internal.h"

struct registry {
    /* frozen */
    struct table_store store;
    struct registry_options options;

    struct table_files files; /* of `store` */

    struct mutex manifest_mutex; /* RANK_MANIFEST: one change at a time */
    struct mutex state_mutex;    /* RANK_LEAF: the current pointer and the facts, for readers */
    struct mutex open_mutex;     /* RANK_TABLE_OPEN: first touches of tables */
    struct mutex dead_mutex;     /* RANK_LEAF: the list of files to remove */

    /* guarded by dead_mutex */
    _Atomic(struct table_ref *) dead; /* read without it as a hint */
    bool is_removing;

    /* guarded by manifest_mutex */
    struct manifest manifest;
    uint64_t number_next;        /* the next file number to hand out; V6 */
    uint64_t space_next;
    uint64_t rewrite_bytes;      /* the manifest is rewritten before it grows beyond this */
    uint64_t *numbers;           /* of all tables of version `numbers_version`, ascending: for registry_has_table */
    size_t numbers_count;
    uint64_t numbers_version;

    /* written under manifest_mutex and state_mutex, read under either */
    struct version *current;
    struct facts facts;
    struct cursor_set cursors;
    struct pleat_error poison;   /* code 0: healthy */
    struct edition edition;      /* of the manifest */
    uint64_t manifest_bytes;
    uint64_t edits;              /* frames of the manifest, the state not counted */
};

#endif

/* test_compaction.c - flush, choice and compaction of real tables against a sorted array, with faults. */
#include "cache/cache_internal.h"
#include "compaction/shape.h"
#include "sstable/table_internal.h"
#include "support/compaction_room.h"

#include <stdatomic.h>

/* ---- histories -------------------------------------------------------------------------------------------------- */

Test(compaction, random_histories_keep_their_contents_after_every_job) {
    struct random random = random_begin("compaction/histories");
    for (int round = 0; round < 6; round++) {
        struct room room;
        room_init(&room, random_next(&random));
        room.options.level_ratio = 2 + (uint32_t)random_below(&random, 3);
        room.options.level0_tables = 1 + (uint32_t)random_below(&random, 5);
        for (int flush = 0; flush < 24; flush++) {
            unsigned begin = (unsigned)random_below(&random, ROOM_KEYS);
            unsigned width = random_below(&random, 3) == 0 ? ROOM_KEYS : 1 + (unsigned)random_below(&random, 120);
            begin = width == ROOM_KEYS ? 0 : begin;
            room_write(&room, &random, begin, begin + width, 1 + (unsigned)random_below(&random, 8),
                       (unsigned)random_below(&random, 60), random_below(&random, 2) == 0);
            room_check(&room, true);
            struct compaction compaction;
            for (uint64_t jobs = random_below(&random, 4); jobs > 0; jobs--) {
                if (room_pick(&room, random_below(&random, 2) == 0, &compaction) != 0) {
                    break;
                }
                struct compaction_result result;
                room_run(&room, &compaction, &result);
                room_check(&room, true);
            }
        }
        room_settle(&room, true);
        cr_assert_eq(room_debt(&room), 0, "an idle store pays its debt");
        struct version *version = registry_current(room.registry);
        cr_assert_leq(compaction_level0_runs(version), SHAPE_IDLE_RUNS);
        version_unref(version);
        room_check(&room, true);
        registry_free(room.registry);
        room_open_registry(&room, false);
        room_check(&room, true);
        room_fini(&room);
    }
}

/* As the store's threads do it: several jobs at once, flushes in between, finished in any order. */
Test(compaction, jobs_at_once_share_no_input_and_may_finish_in_any_order) {
    struct random random = random_begin("compaction/at_once");
    unsigned together = 0, inside = 0;
    for (int round = 0; round < 10; round++) {
        struct room room;
        room_init(&room, random_next(&random));
        room.options.level_ratio = 2 + (uint32_t)random_below(&random, 3);
        struct compaction jobs[3];
        size_t count = 0;
        for (int step = 0; step < 120; step++) {
            uint64_t what = random_below(&random, 4);
            if (what == 0) {
                unsigned begin = (unsigned)random_below(&random, ROOM_KEYS);
                room_write(&room, &random, begin, begin + 1 + (unsigned)random_below(&random, 200), 3, 25, count == 0);
            } else if (what <= 2 && count < 3) {
                if (room_pick_beside(&room, random_below(&random, 2) == 0, jobs, count, &jobs[count]) == 0) {
                    for (size_t j = 0; j < count; j++) {
                        for (unsigned l = 0; l < LIMIT_LEVELS; l++) {
                            for (size_t a = 0; a < jobs[j].input_counts[l]; a++) {
                                for (size_t b = 0; b < jobs[count].input_counts[l]; b++) {
                                    cr_assert_neq(jobs[j].inputs[l][a], jobs[count].inputs[l][b], "K4");
                                }
                            }
                        }
                    }
                    inside += jobs[count].output_level == 0;
                    count++;
                    together += count > 1;
                }
            } else if (count > 0) {
                size_t done = random_below(&random, count);
                struct compaction_result result;
                room_run(&room, &jobs[done], &result);
                jobs[done] = jobs[--count];
                room_check(&room, count == 0);
            }
        }
        while (count > 0) {
            struct compaction_result result;
            room_run(&room, &jobs[--count], &result);
        }
        room_settle(&room, true);
        room_check(&room, true);
        room_fini(&room);
    }
    cr_assert_gt(together, 5, "jobs must really overlap");
    cr_assert_gt(inside, 0, "level 0 must really be merged inside");
}

static void flush_range(struct room *room, unsigned begin, unsigned end, bool allow_deep) {
    struct update updates[ROOM_KEYS];
    for (unsigned i = begin; i < end; i++) {
        updates[i - begin] = (struct update){i, ++room_value};
    }
    cr_assert_eq(room_flush(room, updates, end - begin, allow_deep, NULL), 0);
}

/* K4. The inputs of a job leave a gap that its output covers. What comes into the gap meanwhile is no input of it, and
 * would go down through it into the job's own level. */
Test(compaction, nothing_goes_into_a_gap_that_a_job_is_about_to_cover) {
    struct room room;
    struct compaction full, jobs[2];
    struct compaction_result result;
    bool is_busy;
    room_init(&room, 1);
    room.options.level_base_bytes = 3000;
    flush_range(&room, 300, 599, true);
    flush_range(&room, 40, 60, true);
    flush_range(&room, 10, 50, false);
    cr_assert_eq(room_pick(&room, true, &jobs[0]), 0);
    room_run(&room, &jobs[0], &result);
    flush_range(&room, 200, 240, false);
    cr_assert_eq(room_pick(&room, true, &jobs[0]), 0);
    room_run(&room, &jobs[0], &result);
    struct version *version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[5].count, 2);
    cr_assert_eq(room_pick_full(&room, version, &full, &is_busy), 0);
    version_unref(version);
    cr_assert_eq(full.input_counts[5], 2, "with a gap between them");
    flush_range(&room, 100, 140, false);
    jobs[0] = full;
    cr_assert_eq(room_pick_beside(&room, true, jobs, 1, &jobs[1]), 0);
    cr_assert_eq(jobs[1].output_level, 5, "as far as the inputs of the job it may go");
    room_run(&room, &jobs[1], &result);
    cr_assert_eq(room_pick_beside(&room, true, jobs, 1, &jobs[1]), PLEAT_END, "but not into its output");
    room_run(&room, &jobs[0], &result);
    room_check(&room, true);
    version = registry_current(room.registry);
    cr_assert_eq(room_pick_full(&room, version, &full, &is_busy), 0, "now it may");
    version_unref(version);
    room_run(&room, &full, &result);
    room_check(&room, true);
    room_fini(&room);
}

/* Flushes `keys` as of commits [sequence, sequence + 9], with no regard to the model. */
static void flush_as_of(struct room *room, const unsigned *keys, size_t count, uint64_t sequence, bool allow_deep) {
    struct update updates[ROOM_KEYS];
    for (size_t i = 0; i < count; i++) {
        updates[i] = (struct update){keys[i], keys[i] + 1};
    }
    struct update_source source = {.source = {.ops = &update_ops}, .room = room, .updates = updates, .count = count};
    struct version *version = registry_current(room->registry);
    struct edit edit;
    uint64_t bytes;
    edit_init(&edit, &room->fail.mem);
    cr_assert_eq(flush_run(room->registry, version, 0, &room->options, &source.source, sequence, sequence + 9,
                           allow_deep, &edit, &bytes, NULL),
                 0);
    version_unref(version);
    room_apply(room, &edit);
    edit_fini(&edit);
}

static int verify_now(struct room *room, struct pleat_error *err) {
    *err = (struct pleat_error){0};
    struct version *version = registry_current(room->registry);
    int rc = version_verify(version, err);
    version_unref(version);
    return rc;
}

/* V3. A merge whose inputs leave a gap writes a table that spans it, and what went down through the gap may be newer:
 * that is no fault as long as no key stands in both. */
Test(compaction, an_older_table_above_a_newer_one_is_a_fault_only_with_a_key_of_both) {
    struct room room;
    room_init(&room, 1);
    struct pleat_error err;
    flush_as_of(&room, (const unsigned[]){200, 250, 300}, 3, 21, true);
    struct version *version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[0].count, 0, "it must lie deep");
    version_unref(version);
    flush_as_of(&room, (const unsigned[]){100, 249, 251, 400}, 4, 1, false);
    cr_assert_eq(verify_now(&room, &err), 0, "%s", err.message);
    flush_as_of(&room, (const unsigned[]){100, 250, 400}, 3, 41, false);
    cr_assert_eq(verify_now(&room, &err), 0, "newer above older: %s", err.message);
    flush_as_of(&room, (const unsigned[]){50, 300, 350}, 3, 2, false);
    cr_assert_eq(verify_now(&room, &err), PLEAT_ERR_CORRUPT, "the last key of both");
    cr_assert_neq(strstr(err.message, "expected at least 21, found 11"), NULL, "%s", err.message);
    registry_free(room.registry); /* the tables are opened anew below */
    room_open_registry(&room, false);
    int rc = PLEAT_ERR_NO_MEMORY;
    for (unsigned n = 1; rc == PLEAT_ERR_NO_MEMORY; n++) {
        room.fail.fail_at = room.fail.calls + n;
        rc = verify_now(&room, &err);
        room.fail.fail_at = 0;
    }
    cr_assert_eq(rc, PLEAT_ERR_CORRUPT);
    room_fini(&room);
}

/* ---- tombstones ------------------------------------------------------------------------------------------------- */

Test(compaction, tombstones_vanish_in_the_last_level_and_nothing_comes_back) {
    struct random random = random_begin("compaction/tombstones");
    struct room room;
    room_init(&room, random_next(&random));
    room_write(&room, &random, 0, ROOM_KEYS, 1, 0, true);
    for (int i = 0; i < 4; i++) {
        room_write(&room, &random, 0, ROOM_KEYS, 2, 80, true);
        room_check(&room, true);
    }
    struct version *version = registry_current(room.registry);
    cr_assert_gt(tree_tombstones(version->trees[0]), 0, "above older puts they must stay");
    struct compaction compaction;
    bool is_busy;
    cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), 0);
    version_unref(version);
    struct compaction_result result;
    room_run(&room, &compaction, &result);
    room_check(&room, true);
    version = registry_current(room.registry);
    cr_assert_eq(tree_tombstones(version->trees[0]), 0);
    cr_assert_eq(version->trees[0]->levels[6].count, tree_tables(version->trees[0]));
    cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), PLEAT_END);
    cr_assert_not(is_busy);
    version_unref(version);

    struct update updates[ROOM_KEYS];
    for (unsigned i = 0; i < ROOM_KEYS; i++) {
        updates[i] = (struct update){i, 0};
    }
    cr_assert_eq(room_flush(&room, updates, ROOM_KEYS, true, NULL), 0);
    version = registry_current(room.registry);
    cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), 0);
    version_unref(version);
    room_run(&room, &compaction, &result);
    cr_assert_eq(result.entries_out, 0);
    cr_assert_eq(room_table_files(&room), 0, "a compaction with nothing left writes no table");
    cr_assert_eq(room_flush(&room, updates, ROOM_KEYS, true, NULL), 0);
    cr_assert_eq(room_table_files(&room), 0, "tombstones of nothing are not even flushed");
    room_check(&room, true);
    room_fini(&room);
}

Test(compaction, tables_of_tombstones_are_pushed_down_by_density) {
    struct random random = random_begin("compaction/density");
    struct room room;
    room_init(&room, random_next(&random));
    room.options.level_base_bytes = 1 << 20; /* nothing is ever too large */
    struct update updates[ROOM_KEYS];
    size_t count = room_updates(&random, 100, 200, 1, 0, updates);
    cr_assert_eq(room_flush(&room, updates, count, true, NULL), 0);
    struct version *version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[6].entries, count, "the first run goes straight down");
    version_unref(version);
    /* A level of tombstones above it, put there by hand: the shape alone would never ask for it. */
    for (size_t i = 0; i < count; i++) {
        updates[i].value = 0;
    }
    cr_assert_eq(room_flush(&room, updates, count, true, NULL), 0);
    struct compaction_result result;
    level0_to(&room, 5, &result);
    cr_assert_eq(result.entries_out, count, "the last level still has what they hide");
    room_check(&room, true);
    cr_assert_gt(room_debt(&room), 0);
    room_settle(&room, false);
    cr_assert_eq(room_table_files(&room), 0);
    room_check(&room, true);
    room_fini(&room);
}

/* A run that is mostly tombstones is worth more than its bytes: each scan over it passes them and what they hide. */
Test(compaction, an_idle_store_pays_ten_times_as_much_to_be_rid_of_tombstones) {
    static const struct {
        unsigned step; /* between the deleted keys */
        bool is_paid;
    } rows[] = {{10, true}, {300, false}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct random random = random_begin("compaction/idle_tombstones");
        struct room room;
        room_init(&room, random_next(&random));
        room.options.level_base_bytes = 1 << 20;
        room.options.table_bytes = 1 << 20;
        room_write(&room, &random, 0, ROOM_KEYS, 1, 0, true);
        struct update updates[ROOM_KEYS];
        size_t count = 0;
        for (unsigned key = 0; key < ROOM_KEYS; key += rows[r].step) {
            updates[count++] = (struct update){key, 0};
        }
        cr_assert_eq(room_flush(&room, updates, count, false, NULL), 0);
        struct version *version = registry_current(room.registry);
        const struct tree *tree = version->trees[0];
        uint64_t below = tree->levels[6].file_bytes, run = tree->levels[0].file_bytes;
        cr_assert_gt(below, room.options.level_ratio * run, "dearer than any other run may be");
        cr_assert_eq(below <= 10 * room.options.level_ratio * run, rows[r].is_paid, "%llu below %llu",
                     (unsigned long long)below, (unsigned long long)run);
        version_unref(version);
        room_settle(&room, true);
        version = registry_current(room.registry);
        tree = version->trees[0];
        cr_assert_eq(tree->levels[0].count, rows[r].is_paid ? 0 : 1);
        cr_assert_eq(tree->levels[6].entries, rows[r].is_paid ? ROOM_KEYS - count : ROOM_KEYS);
        version_unref(version);
        room_check(&room, true);
        room_fini(&room);
    }
}

/* K5: the tombstones lie where the last level has a gap between keys of one table, so that no other input touches their
 * blocks; copied as stored they would stay for ever. */
Test(compaction, untouched_blocks_of_tombstones_are_not_copied) {
    struct random random = random_begin("compaction/tombstone_blocks");
    struct room room;
    room_init(&room, random_next(&random));
    room.options.table_bytes = 1 << 20;
    struct update updates[ROOM_KEYS];
    size_t count = room_updates(&random, 0, 100, 1, 0, updates);
    count += room_updates(&random, 300, 400, 1, 0, updates + count);
    cr_assert_eq(room_flush(&room, updates, count, true, NULL), 0);
    count = room_updates(&random, 120, 280, 1, 100, updates);
    cr_assert_eq(room_flush(&room, updates, count, true, NULL), 0);
    struct compaction_result result;
    level0_to(&room, 5, &result);
    cr_assert_eq(result.entries_out, count, "the range of the table below holds them");
    struct version *version = registry_current(room.registry);
    struct compaction compaction;
    bool is_busy;
    cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), 0);
    version_unref(version);
    room_run(&room, &compaction, &result);
    cr_assert_gt(result.blocks_copied, 0);
    version = registry_current(room.registry);
    cr_assert_eq(tree_tombstones(version->trees[0]), 0);
    version_unref(version);
    room_check(&room, true);
    room_fini(&room);
}

Test(compaction, a_table_with_tombstones_of_nothing_is_not_moved_into_the_last_level) {
    struct random random = random_begin("compaction/tombstone_move");
    struct room room;
    room_init(&room, random_next(&random));
    room.options.table_bytes = 1 << 20;
    struct update updates[ROOM_KEYS];
    struct compaction_result result;
    struct update ends[2] = {{0, 1000}, {500, 1001}}; /* one table from here to there */
    cr_assert_eq(room_flush(&room, ends, 2, true, NULL), 0);
    size_t count = room_updates(&random, 100, 200, 1, 30, updates);
    cr_assert_eq(room_flush(&room, updates, count, true, NULL), 0);
    level0_to(&room, 5, &result);
    cr_assert_eq(result.entries_out, count, "the range of the table below holds them");
    ends[0].value = ends[1].value = 0;
    cr_assert_eq(room_flush(&room, ends, 2, true, NULL), 0);
    level0_to(&room, 6, &result);
    cr_assert_eq(result.entries_out, 0);
    struct compaction compaction;
    cr_assert_eq(room_pick(&room, false, &compaction), 0, "level 5 is above the base");
    cr_assert_not(compaction.is_move);
    room_run(&room, &compaction, &result);
    struct version *version = registry_current(room.registry);
    cr_assert_eq(tree_tombstones(version->trees[0]), 0);
    version_unref(version);
    room_check(&room, true);
    room_fini(&room);
}

/* ---- blocks as stored ------------------------------------------------------------------------------------------- */

/* The stored bytes of all blocks of a table, by hash. */
struct block_set {
    uint64_t hashes[4096];
    size_t count;
};

static void block_set_add(struct room *room, const struct tree *tree, struct block_set *set) {
    for (unsigned l = 1; l < LIMIT_LEVELS; l++) {
        for (size_t i = 0; i < tree->levels[l].count; i++) {
            struct table *table;
            struct source *source;
            static const struct source_bounds none;
            cr_assert_eq(table_ref_open(tree->levels[l].tables[i], &table, NULL), 0);
            cr_assert_eq(table_source_new(table, &none, &source, NULL), 0);
            int rc = source->ops->first(source);
            while (rc == 0) {
                struct table_block block;
                cr_assert_eq(table_source_block(source, &block), 0);
                cr_assert_lt(set->count, 4096);
                set->hashes[set->count++] = hash_bytes(block.stored, block.stored_bytes, block.codec);
                rc = table_source_skip_block(source);
            }
            source_free(source);
        }
    }
    (void)room;
}

Test(compaction, blocks_that_nothing_touches_are_copied_as_stored) {
    struct random random = random_begin("compaction/copy");
    struct room room;
    room_init(&room, random_next(&random));
    room_write(&room, &random, 0, ROOM_KEYS, 1, 0, true);
    struct block_set before = {.count = 0}, after = {.count = 0};
    struct version *version = registry_current(room.registry);
    block_set_add(&room, version->trees[0], &before);
    version_unref(version);
    for (unsigned service = 5; service < 50; service += 15) { /* few services in four places change */
        room_write(&room, &random, service * 12, service * 12 + 12, 1, 10, true);
    }
    version = registry_current(room.registry);
    struct compaction compaction;
    bool is_busy;
    cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), 0);
    version_unref(version);
    struct compaction_result result;
    room_run(&room, &compaction, &result);
    room_check(&room, true);
    cr_assert_gt(result.blocks_copied, 0);
    version = registry_current(room.registry);
    block_set_add(&room, version->trees[0], &after);
    version_unref(version);
    size_t same = 0;
    for (size_t i = 0; i < after.count; i++) {
        for (size_t j = 0; j < before.count; j++) {
            if (after.hashes[i] == before.hashes[j]) {
                same++;
                break;
            }
        }
    }
    cr_assert_geq(same, result.blocks_copied, "a copied block is the same bytes");
    cr_assert_gt(result.blocks_copied, before.count / 4, "%llu of %zu", (unsigned long long)result.blocks_copied,
                 before.count);
    room_fini(&room);
}

/* ---- filters of inputs ------------------------------------------------------------------------------------------ */

/* Merges everything into the last level; each key and group must be in its table's filter (room_check). Returns how
 * many filters were copied, of *ret_inputs tables of that level. */
static uint64_t full_checked(struct room *room, uint64_t *ret_inputs) {
    struct version *version = registry_current(room->registry);
    struct compaction compaction;
    bool is_busy;
    cr_assert_eq(room_pick_full(room, version, &compaction, &is_busy), 0);
    version_unref(version);
    *ret_inputs = compaction.input_counts[LIMIT_LEVELS - 1];
    struct compaction_result result;
    room_run(room, &compaction, &result);
    room_check(room, true);
    return result.filters_copied;
}

/* A last level of all keys but those of `without` in 24, in several tables. */
static void last_level(struct room *room, struct random *random, unsigned without) {
    struct update updates[ROOM_KEYS];
    size_t count = 0;
    uint64_t inputs;
    room_init(room, random_next(random));
    for (unsigned key = 0; key < ROOM_KEYS; key++) {
        if (key % 24 != without) {
            updates[count++] = (struct update){key, ++room_value};
        }
    }
    cr_assert_eq(room_flush(room, updates, count, false, NULL), 0);
    (void)full_checked(room, &inputs);
    cr_assert_geq(room_table_files(room), 4);
}

Test(compaction, tables_of_updates_alone_keep_the_filters) {
    struct random random = random_begin("compaction/filters");
    for (unsigned step = 1; step < 200; step = step * 3 + 1) {
        struct room room;
        uint64_t inputs;
        last_level(&room, &random, 24);
        size_t before = room_table_files(&room);
        for (unsigned round = 0; round < 4; round++) {
            room_write(&room, &random, round, ROOM_KEYS, step, 0, false);
            uint64_t copied = full_checked(&room, &inputs);
            cr_assert_eq(room_table_files(&room), before, "the borders move");
            cr_assert(copied == inputs && inputs > 0, "%d of %d filters", (int)copied, (int)inputs);
        }
        room_fini(&room);
    }
}

/* U4: as many keys, but others: one that is new, one that is gone. Or one more, or one less. */
Test(compaction, tables_of_other_keys_get_filters_of_their_own) {
    struct random random = random_begin("compaction/other_filters");
    for (unsigned what = 1; what < 4; what++) {
        for (unsigned place = 0; place < ROOM_KEYS / 24; place++) {
            struct room room;
            uint64_t inputs;
            last_level(&room, &random, 7);
            struct update updates[2];
            size_t count = 0;
            if ((what & 1) != 0) {
                updates[count++] = (struct update){place * 24 + 7, ++room_value};
            }
            if ((what & 2) != 0) {
                updates[count++] = (struct update){place * 24 + 9 + (unsigned)random_below(&random, 12), 0};
            }
            cr_assert_eq(room_flush(&room, updates, count, false, NULL), 0);
            uint64_t copied = full_checked(&room, &inputs);
            cr_assert(inputs == 0 || copied < inputs, "%d of %d filters", (int)copied, (int)inputs);
            room_fini(&room);
        }
    }
}

/* Without memory, or when it cannot be read, a filter is built as ever. */
Test(compaction, a_filter_that_cannot_be_copied_is_built) {
    struct random random = random_begin("compaction/no_copy");
    struct room room;
    uint64_t inputs, whole = 0, struck = 0;
    last_level(&room, &random, 24);
    for (uint64_t n = 1; n < 60; n++) {
        room_write(&room, &random, 0, ROOM_KEYS, 9, 0, false);
        struct version *version = registry_current(room.registry);
        struct compaction compaction;
        bool is_busy;
        cr_assert_eq(room_pick_full(&room, version, &compaction, &is_busy), 0);
        version_unref(version);
        struct pleat_error err = {0};
        uint64_t fired = simfs_faults_fired(room.fs);
        simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_FILE_READ, .at = n, .os_errno = 5});
        int rc = try_job(&room, &compaction, &err);
        struck += simfs_faults_fired(room.fs) > fired;
        whole += simfs_faults_fired(room.fs) > fired && rc == 0;
        simfs_faults_clear(room.fs);
        compaction_fini(&room.fail.mem, &compaction);
        cr_assert(rc == 0 || rc == PLEAT_ERR_IO, "%s", err.message);
        room_write(&room, &random, 0, ROOM_KEYS, 9, 0, false);
        (void)full_checked(&room, &inputs);
    }
    cr_assert(struck > 20 && whole > 5, "%d struck, %d did no harm", (int)struck, (int)whole);
    room_fini(&room);
}

/* ---- shape and moves -------------------------------------------------------------------------------------------- */

Test(compaction, an_in_order_fold_is_written_once) {
    struct random random = random_begin("compaction/in_order");
    struct room room;
    room_init(&room, random_next(&random));
    for (unsigned begin = 0; begin < ROOM_KEYS; begin += 50) {
        room_write(&room, &random, begin, begin + 50, 1, 0, true);
    }
    struct version *version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[6].count, tree_tables(version->trees[0]));
    version_unref(version);
    struct compaction compaction;
    cr_assert_eq(room_pick(&room, true, &compaction), PLEAT_END);
    cr_assert_eq(room_debt(&room), 0);
    room_check(&room, true);
    room_fini(&room);
}

Test(compaction, a_move_keeps_the_file_and_raw_tables_are_not_moved) {
    struct random random = random_begin("compaction/move");
    struct room room;
    room_init(&room, random_next(&random));
    struct update updates[ROOM_KEYS];
    /* A final table in level 5 with nothing below it: level 6 is elsewhere. */
    size_t count = room_updates(&random, 300, 330, 1, 0, updates);
    cr_assert_eq(room_flush(&room, updates, count, false, NULL), 0);
    struct version *version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[0].count, 1, "not deep when it is not allowed");
    version_unref(version);
    struct compaction_result result;
    level0_to(&room, 4, &result);
    version = registry_current(room.registry);
    uint64_t number = version->trees[0]->levels[4].tables[0]->meta.number;
    version_unref(version);
    struct compaction compaction;
    unsigned moves = 0;
    while (room_pick(&room, false, &compaction) == 0) {
        cr_assert(compaction.is_move);
        room_run(&room, &compaction, &result);
        cr_assert_eq(result.bytes_out, 0);
        moves++;
    }
    cr_assert_eq(moves, 2, "levels above the base drain: 4 to 5 to 6");
    version = registry_current(room.registry);
    cr_assert_eq(version->trees[0]->levels[6].tables[0]->meta.number, number);
    version_unref(version);
    room_check(&room, true);

    room.options.level0_tables = 1;
    count = room_updates(&random, 400, 430, 1, 0, updates);
    cr_assert_eq(room_flush(&room, updates, count, false, NULL), 0);
    cr_assert_eq(room_pick(&room, false, &compaction), 0);
    cr_assert_not(compaction.is_move, "a raw table would stay raw");
    room_run(&room, &compaction, &result);
    room_check(&room, true); /* the form of every table by its level */
    room_fini(&room);
}

Test(compaction, targets_shrink_upward_from_the_last_level) {
    struct tree *tree = calloc(1, sizeof *tree);
    struct shape shape;
    struct compaction_options options = {
        .table_bytes = 1, .level_base_bytes = 100, .level_ratio = 10, .level0_tables = 4};
    static const struct {
        uint64_t last;
        unsigned base;
        uint64_t target;
    } cases[] = {{0, 6, 0}, {999, 6, 0}, {1000, 5, 100}, {99999, 4, 999}, {UINT64_MAX / 2, 1, 92233720368547}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tree->levels[6].file_bytes = cases[i].last;
        shape_of(tree, &options, &shape);
        cr_assert_eq(shape.base, cases[i].base, "case %zu", i);
        cr_assert_eq(shape.targets[shape.base], cases[i].target, "case %zu: %llu", i,
                     (unsigned long long)shape.targets[shape.base]);
        cr_assert_eq(shape.level0_output, shape.base);
    }
    tree->levels[6].file_bytes = 1000;
    tree->levels[3].count = 1;
    shape_of(tree, &options, &shape);
    cr_assert_eq(shape.level0_output, 3, "level 0 stops above what has not drained yet");
    free(tree);
}

Test(compaction, busy_inputs_are_refused_and_come_back) {
    struct random random = random_begin("compaction/busy");
    struct room room;
    room_init(&room, random_next(&random));
    room.options.table_bytes = 1 << 20; /* a run is one table: smaller ones can all end at one key, and part the runs */
    for (int i = 0; i < 5; i++) {
        room_write(&room, &random, 0, ROOM_KEYS, 3, 10, false);
    }
    struct compaction first, second;
    cr_assert_eq(room_pick(&room, true, &first), 0);
    cr_assert_eq(room_pick(&room, true, &second), PLEAT_END, "all of level 0 is taken");
    struct version *version = registry_current(room.registry);
    bool is_busy;
    cr_assert_eq(room_pick_full(&room, version, &second, &is_busy), PLEAT_END);
    cr_assert(is_busy);
    version_unref(version);
    compaction_fini(&room.fail.mem, &first);
    cr_assert_eq(room_pick(&room, true, &first), 0, "let go without having run");
    compaction_fini(&room.fail.mem, &first);
    room_check(&room, true);
    room_fini(&room);
}

/* ---- stopping and failing --------------------------------------------------------------------------------------- */

struct pauses {
    unsigned calls;
    unsigned cancel_at;
    _Atomic bool cancel;
};

static void pauses_count(void *context) {
    struct pauses *pauses = context;
    if (++pauses->calls == pauses->cancel_at) {
        atomic_store(&pauses->cancel, true);
    }
}

Test(compaction, a_job_stops_within_a_block_and_leaves_nothing) {
    struct random random = random_begin("compaction/cancel");
    struct room room;
    room_init(&room, random_next(&random));
    for (int i = 0; i < 5; i++) {
        room_write(&room, &random, 0, ROOM_KEYS, 2, 10, false);
    }
    size_t files = room_table_files(&room);
    struct compaction compaction;
    cr_assert_eq(room_pick(&room, true, &compaction), 0);
    unsigned cancelled = 0;
    for (unsigned n = 1;; n += 1 + n / 8) {
        struct pauses pauses = {.cancel_at = n};
        struct compaction_way way = {&room.options, &pauses.cancel, pauses_count, &pauses};
        struct edit edit;
        struct compaction_result result;
        edit_init(&edit, &room.fail.mem);
        int rc = compaction_run(room.registry, &compaction, &way, &edit, &result, NULL);
        if (rc == 0) {
            cr_assert_gt(pauses.calls, result.bytes_in / 2048);
            room_apply(&room, &edit);
            edit_fini(&edit);
            break;
        }
        cancelled++;
        cr_assert_eq(rc, PLEAT_ERR_CANCELLED);
        cr_assert_eq(pauses.calls, n, "no further block is begun");
        cr_assert(edit.added_count == 0 && edit.removed_count == 0);
        cr_assert_eq(room_table_files(&room), files);
        edit_fini(&edit);
    }
    cr_assert_gt(cancelled, 10);
    compaction_fini(&room.fail.mem, &compaction);
    room_check(&room, true);
    room_fini(&room);
}

static void failing_room(struct room *room, struct random *random, struct compaction *ret_compaction) {
    room_init(room, random_next(random));
    room_write(room, random, 0, ROOM_KEYS / 2, 1, 0, true);
    for (int i = 0; i < 3; i++) {
        room_write(room, random, 0, 60, 2, 20, false);
    }
    struct version *version = registry_current(room->registry);
    bool is_busy;
    cr_assert_eq(room_pick_full(room, version, ret_compaction, &is_busy), 0);
    version_unref(version);
}

Test(compaction, every_failed_allocation_leaves_the_inputs_and_no_file) {
    struct random random = random_begin("compaction/memory");
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        struct room room;
        struct compaction compaction;
        failing_room(&room, &random, &compaction);
        room_check(&room, true); /* somebody reads: images are kept, too */
        unsigned failed = 0;
        for (uint64_t n = 1;; n++) {
            room.fail.calls = 0;
            room.fail.fail_for_ever = for_ever;
            room.fail.fail_at = n;
            struct pleat_error err = {0};
            int rc = try_job(&room, &compaction, &err);
            if (rc == 0 && room.fail.calls < n) {
                break;
            }
            failed += rc < 0;
            cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY, "%s", err.message);
        }
        cr_assert_gt(failed, 20);
        room_check(&room, false);
        struct compaction_result result;
        room_run(&room, &compaction, &result);
        room_check(&room, true);
        room_fini(&room);
    }
}

/* A fresh room for each call: a failed reservation of file numbers in the manifest rightly ends a registry's life. */
Test(compaction, every_failed_call_of_the_disk_leaves_the_inputs_and_no_file) {
    struct random random = random_begin("compaction/disk");
    static const unsigned kinds =
        SIMFS_FILE_CREATE | SIMFS_FILE_OPEN | SIMFS_FILE_READ | SIMFS_FILE_WRITE | SIMFS_FILE_SYNC | SIMFS_FILE_SIZE;
    static const int errors[] = {5 /* EIO */, 28 /* ENOSPC */};
    for (unsigned e = 0; e < 4; e++) {
        bool is_read = e == 2;     /* then outputs are opened and read, too, which may fail and matters to nobody */
        bool for_ever = e == 3;    /* else a read of many blocks that fails is tried again block by block, and an open
                                    * that fails for the advice that they will be read is tried again for the read */
        unsigned failed = 0;
        for (uint64_t n = 1;; n++) {
            struct room room;
            struct compaction compaction;
            failing_room(&room, &random, &compaction);
            if (is_read) {
                room_check(&room, true);
            }
            uint64_t fired = simfs_faults_fired(room.fs);
            simfs_fault_add(room.fs,
                            (struct simfs_fault){
                                .calls = kinds, .at = n, .os_errno = errors[e % 2], .half = n % 2 == 0,
                                .for_ever = for_ever});
            struct pleat_error err = {0};
            int rc = try_job(&room, &compaction, &err);
            bool has_fired = simfs_faults_fired(room.fs) > fired;
            unsigned struck = simfs_fault_struck(room.fs);
            bool is_tried_again = !for_ever && (struck == SIMFS_FILE_READ || struck == SIMFS_FILE_OPEN);
            cr_assert(has_fired == (rc < 0) || (has_fired && (is_read || is_tried_again)),
                      "call %llu failed and nobody said so", (unsigned long long)n);
            simfs_faults_clear(room.fs);
            compaction_fini(&room.fail.mem, &compaction);
            room_check(&room, true);
            room_fini(&room);
            if (!has_fired) {
                break;
            }
            failed += rc < 0;
        }
        cr_assert_gt(failed, is_read ? 2 : 40, "%u", failed); /* 5 to 14, and 54 to 64, in 30 runs */
    }
}

Test(compaction, a_failed_flush_leaves_no_file) {
    struct random random = random_begin("compaction/flush_fails");
    struct room room;
    room_init(&room, random_next(&random));
    struct update updates[ROOM_KEYS];
    size_t count = room_updates(&random, 0, ROOM_KEYS, 1, 10, updates);
    unsigned failed = 0;
    for (uint64_t n = 1;; n++) {
        room.fail.calls = 0;
        room.fail.fail_at = n;
        struct pleat_error err = {0};
        int rc = flush_only(&room, updates, count, &err);
        bool is_over = room.fail.calls < n;
        room.fail.fail_at = 0;
        cr_assert(rc == 0 || rc == PLEAT_ERR_NO_MEMORY, "%s", err.message);
        failed += rc < 0;
        cr_assert_eq(room_table_files(&room), 0);
        if (is_over) {
            break;
        }
    }
    cr_assert_gt(failed, 10);
    room_fini(&room);
    for (uint64_t n = 1, fired = 1; fired > 0; n++) {
        room_init(&room, random_next(&random));
        simfs_fault_add(room.fs, (struct simfs_fault){.calls = SIMFS_FILE_CREATE | SIMFS_FILE_WRITE | SIMFS_FILE_SYNC,
                                                      .at = n,
                                                      .os_errno = 28});
        struct pleat_error err = {0};
        int rc = flush_only(&room, updates, count, &err);
        fired = simfs_faults_fired(room.fs);
        simfs_faults_clear(room.fs);
        cr_assert_eq(rc, fired > 0 ? PLEAT_ERR_NO_SPACE : 0, "%s", err.message);
        cr_assert_eq(room_table_files(&room), 0);
        room_fini(&room);
    }
}

/* Catalogue: an input that ends early, in silence, must not take the rest of its rows with it (R1). */
Test(compaction, an_input_with_fewer_entries_than_the_manifest_says_is_damage) {
    struct random random = random_begin("compaction/counts");
    struct room room;
    struct compaction compaction;
    failing_room(&room, &random, &compaction);
    struct table_ref *ref = compaction.inputs[0][0];
    struct table *table;
    cr_assert_eq(table_ref_open(ref, &table, NULL), 0);
    ref->meta.entries++;
    struct pleat_error err = {0};
    cr_assert_eq(try_job(&room, &compaction, &err), PLEAT_ERR_CORRUPT);
    ref->meta.entries--;
    err = (struct pleat_error){0};
    cr_assert_eq(try_job(&room, &compaction, &err), 0, "%s", err.message);
    compaction_fini(&room.fail.mem, &compaction);
    room_check(&room, true);
    room_fini(&room);
}

/* ---- images for the cache (U3, KE1) ----------------------------------------------------------------------------- */

/* How many blocks of an edit's tables are cached before it is applied, and the bytes of their images. Each is what a
 * reader of the file would find. */
static size_t warm_blocks(struct room *room, const struct edit *edit, size_t *ret_bytes) {
    const struct table_store *store = registry_store(room->registry);
    size_t blocks = 0;
    *ret_bytes = 0;
    for (size_t i = 0; i < edit->added_count; i++) {
        struct table *warm, *cold;
        struct epoch_slot *slot;
        if (edit->added[i].ref == NULL) {
            continue;
        }
        cr_assert_eq(table_ref_open(edit->added[i].ref, &warm, NULL), 0);
        cr_assert_eq(table_open(store, &edit->added[i].meta, &cold, NULL), 0);
        cr_assert_eq(epoch_enter(cache_epoch(room->cache), &slot), 0);
        for (uint32_t block = 0; block < edit->added[i].meta.blocks; block++) {
            struct table_place place;
            const struct cache_frame *kept = cache_slot_load(&warm->index.slots[block]);
            if (kept == NULL) {
                continue;
            }
            cr_assert_eq(table_block_place(cold, block, &place, NULL), 0);
            cr_assert_eq(table_block_carry(cold, &place, 0, NULL), 0);
            const struct cache_frame *read = cache_slot_load(&cold->index.slots[block]);
            cr_assert_eq(kept->bytes, read->bytes);
            cr_assert_eq(memcmp(kept->data, read->data, kept->bytes + CACHE_TAIL_BYTES), 0);
            cr_assert_leq(cache_score(kept), 2, "a point below what was there");
            blocks++;
            *ret_bytes += kept->bytes;
        }
        epoch_leave(slot);
        table_close(cold);
    }
    return blocks;
}

static size_t blocks_of(const struct edit *edit) {
    size_t blocks = 0;
    for (size_t i = 0; i < edit->added_count; i++) {
        blocks += edit->added[i].meta.blocks;
    }
    return blocks;
}

/* A full compaction of what is there, not applied. */
static void compact_only(struct room *room, struct edit *edit) {
    struct version *version = registry_current(room->registry);
    struct compaction compaction;
    struct compaction_result result;
    bool is_busy;
    edit_init(edit, &room->fail.mem);
    cr_assert_eq(room_pick_full(room, version, &compaction, &is_busy), 0);
    cr_assert_eq(room_run_into(room, &compaction, edit, &result, NULL), 0);
    version_unref(version);
    compaction_fini(&room->fail.mem, &compaction);
}

static void abandon_edit(struct room *room, struct edit *edit) {
    for (size_t i = 0; i < edit->added_count; i++) {
        char name[TABLE_NAME_BYTES];
        table_name(edit->added[i].meta.number, name);
        cr_assert_eq(room->vfs->dir_unlink(room->dir, name, NULL), 0);
    }
    edit_fini(edit);
}

Test(compaction, tables_appear_with_the_blocks_that_were_read_of_older_ones) {
    struct random random = random_begin("compaction/warm");
    struct room room;
    struct edit edit;
    size_t bytes;
    room_init(&room, random_next(&random));
    room_write(&room, &random, 0, ROOM_KEYS, 1, 0, true);
    struct update updates[8];
    for (unsigned i = 0; i < 8; i++) { /* one key of some blocks; the others are copied as stored */
        updates[i] = (struct update){40 * (i + 1), ++room_value};
    }
    cr_assert_eq(room_flush(&room, updates, 8, false, NULL), 0);
    compact_only(&room, &edit);
    cr_assert_eq(warm_blocks(&room, &edit, &bytes), 0, "nobody reads");
    abandon_edit(&room, &edit);
    room_check(&room, true);
    compact_only(&room, &edit);
    cr_assert_eq(warm_blocks(&room, &edit, &bytes), blocks_of(&edit), "all was read");
    room_apply(&room, &edit);
    edit_fini(&edit);
    struct cache_stats before, after;
    cache_stats_read(room.cache, &before);
    room_check(&room, true);
    cache_stats_read(room.cache, &after);
    cr_assert_eq(after.misses, before.misses, "reads after the change have found all of it");
    room_fini(&room);
}

Test(compaction, a_full_cache_keeps_an_eighth_of_it_beside_what_is_replaced) {
    struct random random = random_begin("compaction/warm_full");
    const uint64_t capacity = 192 << 10;
    int64_t charged = 0;
    struct room room;
    struct edit edit;
    size_t bytes;
    room_init(&room, random_next(&random));
    registry_free(room.registry);
    cache_free(room.cache);
    cr_assert_eq(cache_new(&room.fail.mem, capacity, &room.cache, NULL), 0);
    room_open_registry(&room, false);
    room_write(&room, &random, 0, ROOM_KEYS, 1, 0, true);
    room_write(&room, &random, 0, ROOM_KEYS, 2, 0, false);
    room_check(&room, true);
    for (; cache_has_room(room.cache); charged += 1024) {
        cache_charge(room.cache, 1024);
    }
    compact_only(&room, &edit);
    size_t blocks = warm_blocks(&room, &edit, &bytes);
    cr_assert(blocks > 0 && blocks < blocks_of(&edit), "%zu blocks of %zu", blocks, blocks_of(&edit));
    cr_assert_leq(bytes, capacity / 8 + 1024);
    cache_charge(room.cache, -charged);
    abandon_edit(&room, &edit);
    room_check(&room, true);
    room_fini(&room);
}

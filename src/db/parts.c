/*
 * parts.c - a job cut in parts that several workers write: taken one by one under work_mu, by whoever has the job and
 * by workers that have nothing more urgent to do.
 *
 *     owner:   parts_run   --take, write--> --take, write--> ... none left --wait for helpers-->
 *     worker:  parts_help       --take, write--> ...
 *
 *   PA1  Helpers know a job only while its owner is in parts_run: who takes a part is counted in `running` under the
 *        same hold of work_mu, and the owner returns when nobody is counted.
 *   PA2  After the first failure no part is taken any more.
 */
#include "base/assert.h"
#include "db/db.h"

/* Whether there is a part to take. work_mu held. */
static bool parts_left(const struct parts *parts) {
    return parts->failure == 0 && parts->next < parts->count;
}

/* Takes parts and writes them. work_mu held, but not while it writes. */
static void parts_work(struct pleat_db *db, struct parts *parts) {
    while (parts_left(parts)) {
        size_t part = parts->next++;
        struct pleat_error error = {0};
        mutex_unlock(&db->work_mu);
        int rc = parts->write(parts, part, &error);
        mutex_lock(&db->work_mu);
        if (rc < 0 && parts->failure == 0) {
            parts->failure = rc;
            parts->error = error;
        }
    }
}

int parts_help(struct pleat_db *db, enum parts_kind kind) {
    mutex_lock(&db->work_mu);
    struct parts *parts = db->parts[kind];
    while (parts != NULL && !parts_left(parts)) {
        parts = parts->link;
    }
    if (parts != NULL) {
        parts->running++;
        parts_work(db, parts);
        parts->running--;
        condition_broadcast(&db->work_done);
    }
    mutex_unlock(&db->work_mu);
    return parts != NULL ? 0 : PLEAT_END;
}

int parts_run(struct pleat_db *db, enum parts_kind kind, struct parts *parts, struct pleat_error *err) {
    mutex_lock(&db->work_mu);
    parts->link = db->parts[kind];
    db->parts[kind] = parts;
    mutex_unlock(&db->work_mu);
    if (parts->count > 1 && db->scheduler != NULL) {
        scheduler_wake(db->scheduler); /* they find it */
    }
    mutex_lock(&db->work_mu);
    parts_work(db, parts);
    while (parts->running > 0) {
        condition_wait(&db->work_done, &db->work_mu);
    }
    struct parts **place = &db->parts[kind];
    while (*place != parts) {
        place = &(*place)->link;
    }
    *place = parts->link;
    mutex_unlock(&db->work_mu);
    const struct pleat_error *error = &parts->error;
    return parts->failure == 0 ? 0 : error_set(err, parts->failure, error->os_errno, "%s", error->message);
}

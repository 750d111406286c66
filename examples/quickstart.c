#include <pleat/pleat.h>
#include <stdio.h>

#define TEXT(s) ((struct pleat_slice){s, sizeof s - 1})

static int print_row(void *context, const struct pleat_row *row) {
    (void)context;
    printf("%.*s = %.*s\n", (int)row->key.bytes, (const char *)row->key.data, (int)row->value.bytes,
           (const char *)row->value.data);
    return 0;
}

int main(int argc, char **argv) {
    struct pleat_db *db = NULL;
    struct pleat_batch *batch = NULL;
    struct pleat_error err;
    struct pleat_cursor cursor = {.value = TEXT("offset 17")};
    int rc = pleat_open(argc > 1 ? argv[1] : "quickstart.db", NULL, &db, &err);
    struct pleat_space *routes = rc < 0 ? NULL : pleat_default_space(db);
    if (rc < 0 || pleat_batch_new(db, &batch, &err) < 0 ||
        pleat_batch_put(batch, routes, TEXT("svc.a.1"), TEXT("10.0.0.1"), &err) < 0 ||
        pleat_batch_put(batch, routes, TEXT("svc.a.2"), TEXT("10.0.0.2"), &err) < 0 ||
        pleat_batch_delete(batch, routes, TEXT("svc.b.1"), &err) < 0 ||
        pleat_batch_set_cursor(batch, &cursor, &err) < 0 || /* where the stream stands, in the same commit */
        pleat_commit(db, batch, NULL, NULL, &err) < 0 ||
        pleat_scan(routes, PLEAT_ITER_OPTIONS(.prefix = TEXT("svc.a.")), print_row, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        rc = 1;
    }
    struct pleat_value value;
    if (rc == 0 && pleat_get(routes, NULL, TEXT("svc.a.2"), &value, &err) == 0) {
        printf("svc.a.2 is at %.*s\n", (int)value.bytes, (const char *)value.data);
        pleat_value_release(&value);
    }
    pleat_batch_free(batch);
    return pleat_close(db, &err) < 0 || rc != 0;
}

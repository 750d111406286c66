/*
 * peer_library.h - calls into another engine's shared library, found by name when it is loaded.
 *
 * RocksDB and LevelDB are compared in more than one build: Debian's have their assertions on. So their adapters are not
 * linked with a library; they load one by path, or by its usual name, and look each function up. An adapter lists its
 * calls once:
 *
 *     #define CALLS(X) X(open) X(close)
 *     static struct { CALLS(PEER_FIELD) } peer;            // with #define PEER_FIELD(name) typeof(&rocksdb_##name)
 * name;
 *
 * A function that a build does not have stops the run with its name.
 */
#ifndef PLEAT_BENCH_PEER_LIBRARY_H
#define PLEAT_BENCH_PEER_LIBRARY_H

#include "engine.h"

#include <dlfcn.h>

/* Loads the library with names of its own. */
static inline void *peer_load(const char *engine, const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        engine_fail(engine, path, dlerror());
    }
    return library;
}

/* Writes the function's address to *ret_call, a pointer to a function. */
static inline void peer_find(const char *engine, void *library, const char *name, void *ret_call) {
    void *found = dlsym(library, name);
    if (found == NULL) {
        engine_fail(engine, name, "not in this build of the library");
    }
    memcpy(ret_call, &found, sizeof found);
}

/* Whether the file at `path` (or the library's usual name) calls __assert_fail: it was built with assertions. */
static inline bool peer_asserts(void *library, const char *name) {
    Dl_info info;
    bool found = false;
    void *symbol = dlsym(library, name);
    FILE *file = symbol != NULL && dladdr(symbol, &info) != 0 ? fopen(info.dli_fname, "rb") : NULL;
    if (file == NULL) {
        return false;
    }
    static char text[1 << 16];
    static const char wanted[] = "__assert_fail";
    size_t kept = 0, got;
    while (!found && (got = fread(text + kept, 1, sizeof text - kept, file)) > 0) {
        found = memmem(text, kept + got, wanted, sizeof wanted - 1) != NULL;
        kept = kept + got < sizeof wanted ? kept + got : sizeof wanted;
        memmove(text, text + sizeof text - kept, kept);
    }
    (void)fclose(file);
    return found;
}

#endif

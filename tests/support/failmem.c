/* failmem.c - see failmem.h. */
#include "support/failmem.h"

static bool failmem_fails(struct failmem *fail) {
    uint64_t call = atomic_fetch_add(&fail->calls, 1) + 1;
    return fail->fail_at != 0 && (call == fail->fail_at || (fail->fail_for_ever && call > fail->fail_at));
}

static void *failmem_alloc(const struct mem *mem, size_t bytes) {
    struct failmem *fail = mem->context;
    void *block = failmem_fails(fail) ? NULL : mem_system.alloc(&mem_system, bytes);
    if (block != NULL) {
        atomic_fetch_add(&fail->live, 1);
    }
    return block;
}

static void *failmem_resize(const struct mem *mem, void *old, size_t bytes) {
    struct failmem *fail = mem->context;
    void *block = failmem_fails(fail) ? NULL : mem_system.resize(&mem_system, old, bytes);
    if (block != NULL && old == NULL) {
        atomic_fetch_add(&fail->live, 1);
    }
    return block;
}

static void failmem_release(const struct mem *mem, void *block) {
    struct failmem *fail = mem->context;
    atomic_fetch_sub(&fail->live, 1);
    mem_system.release(&mem_system, block);
}

static void *failmem_map(const struct mem *mem, size_t bytes, bool huge) {
    struct failmem *fail = mem->context;
    void *block = failmem_fails(fail) ? NULL : mem_system.map(&mem_system, bytes, huge);
    if (block != NULL) {
        atomic_fetch_add(&fail->live, 1);
    }
    return block;
}

static void failmem_unmap(const struct mem *mem, void *block, size_t bytes) {
    struct failmem *fail = mem->context;
    atomic_fetch_sub(&fail->live, 1);
    mem_system.unmap(&mem_system, block, bytes);
}

void failmem_init(struct failmem *fail) {
    *fail = (struct failmem){
        .mem = {failmem_alloc, failmem_resize, failmem_release, failmem_map, failmem_unmap, NULL, fail},
    };
}

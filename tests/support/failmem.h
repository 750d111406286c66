/*
 * failmem.h - a counting allocator behind struct mem that fails the N-th call, once or for ever after.
 *
 *     struct failmem fail; failmem_init(&fail);
 *     fail.fail_at = n;                    // 1: the first call from now on; 0: never
 *     ... run with &fail.mem ...
 *     cr_assert_eq(fail.live, 0);          // nothing leaked
 */
#ifndef PLEAT_TESTS_FAILMEM_H
#define PLEAT_TESTS_FAILMEM_H

#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>

struct failmem {
    struct mem mem;          /* hand out &fail.mem; its context is the failmem itself: do not move it afterwards */
    _Atomic uint64_t calls;  /* allocations asked for so far */
    uint64_t fail_at;        /* the call that fails; 0: none */
    bool fail_for_ever;      /* and all after it */
    _Atomic int64_t live;    /* blocks and mappings not given back */
};

void failmem_init(struct failmem *fail);

#endif

/*
 * keepmem.h - the system's memory, but mappings are kept and handed out again, zeroed, to the next who asks for as
 * much.
 *
 * A campaign opens and closes a small store a thousand times a second, and most of what that costs is mapping, touching
 * and unmapping pages. One thread a process. Under a sanitizer it is mem_system: nothing may hide what is unmapped.
 */
#ifndef PLEAT_TESTS_KEEPMEM_H
#define PLEAT_TESTS_KEEPMEM_H

#include "base/mem.h"

const struct mem *keepmem(void);

#endif

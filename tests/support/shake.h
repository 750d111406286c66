/*
 * shake.h - the real system and allocator with pauses at random, so that threads meet in more orders than they would.
 *
 * shake_vfs and shake_mem stand behind the library's own seams. Before and after their work they now and then yield,
 * sleep for microseconds, or sleep for milliseconds: within commits, flushes, opens of tables, edits of the manifest,
 * in whatever lock is held there. Each thread draws from a generator of its own, so that the shaking itself orders
 * nothing between threads and hides no race from ThreadSanitizer. shake_mem counts what is out.
 *
 * The seams do not lie between any two instructions. Therefore threads may also offer themselves to be interrupted: by
 * a signal whose handler sleeps, at whatever instruction it meets them. (ThreadSanitizer hands signals on at the next
 * system call only; there it adds little.)
 */
#ifndef PLEAT_TESTS_SHAKE_H
#define PLEAT_TESTS_SHAKE_H

#include "base/mem.h"
#include "platform/vfs.h"

#include <stdint.h>

extern const struct vfs shake_vfs;
extern const struct mem shake_mem;

/* Before any thread uses the two. chance: of 1,024 places, so many are shaken; 0: none. */
void shake_start(uint64_t seed, uint32_t chance);
/* The calling thread may be interrupted from now on, until it withdraws; it must before it ends. */
void shake_offer(void);
void shake_withdraw(void);
/* Starts and stops the thread that interrupts them. */
void shake_interrupts_start(void);
void shake_interrupts_stop(void);
/* A place of the test's own. */
void shake_here(void);
/* Blocks and mappings of shake_mem not given back. */
int64_t shake_live(void);

#endif

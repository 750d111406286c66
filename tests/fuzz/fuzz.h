/*
 * fuzz.h - what the fuzz targets share: taking an input apart, a bounded allocator, a read-only disk of a few files.
 *
 * A target is one file with one LLVMFuzzerTestOneInput. libFuzzer runs it in a build with -Dfuzzers=true; in every
 * build replay.c runs it over the inputs that are kept in corpus/. What a target finds wrong ends in FUZZ_CHECK, which
 * prints the place and aborts.
 *
 * Checksums keep blind mutations out. So most inputs begin with a byte of modes that says whether the target takes the
 * rest as it is, repairs the checksums in it first (repair.h), or builds a file around it.
 */
#ifndef PLEAT_TESTS_FUZZ_H
#define PLEAT_TESTS_FUZZ_H

#include "base/bytes.h"
#include "base/mem.h"
#include "platform/vfs.h"
#include "pleat/pleat.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Returns 0. Deterministic: the same bytes are the same run. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* What libFuzzer looks for in targets that mutate their own way (with FUZZ_MUTATORS), and what it gives them. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fuzz_fail(__FILE__, __LINE__, #condition, ".");                                                            \
        }                                                                                                              \
    } while (0)
/* The same with a text behind it. */
#define FUZZ_CHECK_TEXT(condition, ...)                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fuzz_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);                                                    \
        }                                                                                                              \
    } while (0)
_Noreturn void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- the input -------------------------------------------------------------------------------------------------- */

/* Consumed from the front; behind its end come zeros and empty slices. */
struct fuzz_input {
    const uint8_t *next;
    const uint8_t *end;
};

static inline size_t fuzz_left(const struct fuzz_input *input) {
    return (size_t)(input->end - input->next);
}
uint8_t fuzz_u8(struct fuzz_input *input);
uint16_t fuzz_u16(struct fuzz_input *input);
uint64_t fuzz_u64(struct fuzz_input *input);
/* At most `bytes` of what is left. */
struct pleat_slice fuzz_slice(struct fuzz_input *input, size_t bytes);
/* All of what is left. */
struct pleat_slice fuzz_rest(struct fuzz_input *input);

/* A copy of exactly these bytes and `beyond` zero bytes behind them, so that one more is seen to be read. */
uint8_t *fuzz_copy(const void *data, size_t bytes, size_t beyond);

int fuzz_order(struct pleat_slice a, struct pleat_slice b);
static inline bool fuzz_equal(struct pleat_slice a, struct pleat_slice b) {
    return a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/* Counts what is in use and fails the run above a bound: an input of n bytes warrants so much and no more. */
struct fuzz_mem {
    struct mem mem; /* hand out &fuzz_mem.mem; do not move it afterwards */
    size_t live;    /* bytes of blocks */
    size_t mapped;  /* bytes of address space */
    size_t bound;
    size_t mapped_bound;
};

/* `times` the input's bytes and `base`; nothing is mapped. */
void fuzz_mem_init(struct fuzz_mem *memory, size_t input_bytes, size_t times, size_t base);
/* Fails the run when anything is left. */
void fuzz_mem_fini(const struct fuzz_mem *memory);

/* ---- a disk ----------------------------------------------------------------------------------------------------- */

#define FUZZ_FILES_MAX 4

/* Files in memory behind struct vfs, for rooms that only read. */
struct fuzz_disk {
    struct vfs vfs;
    struct {
        const char *name; /* NULL: none */
        struct pleat_slice content;
    } files[FUZZ_FILES_MAX];
    int open_handles;
};

void fuzz_disk_init(struct fuzz_disk *disk);
struct vfs_dir *fuzz_disk_dir(struct fuzz_disk *disk);
/* Replaces a file of that name. Both are borrowed. */
void fuzz_disk_put(struct fuzz_disk *disk, const char *name, const void *data, size_t bytes);

#endif

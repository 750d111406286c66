/* fuzz.c - see fuzz.h. */
#include "fuzz/fuzz.h"

#include "base/error.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void fuzz_fail(const char *file, int line, const char *condition, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "fuzz: %s:%d: not so: %s ", file, line, condition);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

/* ---- the input -------------------------------------------------------------------------------------------------- */

uint8_t fuzz_u8(struct fuzz_input *input) {
    return input->next < input->end ? *input->next++ : 0;
}

uint16_t fuzz_u16(struct fuzz_input *input) {
    uint16_t low = fuzz_u8(input);
    return (uint16_t)(low | fuzz_u8(input) << 8);
}

uint64_t fuzz_u64(struct fuzz_input *input) {
    uint64_t x = 0;
    for (unsigned shift = 0; shift < 64; shift += 8) {
        x |= (uint64_t)fuzz_u8(input) << shift;
    }
    return x;
}

struct pleat_slice fuzz_slice(struct fuzz_input *input, size_t bytes) {
    if (bytes > fuzz_left(input)) {
        bytes = fuzz_left(input);
    }
    struct pleat_slice slice = {input->next, bytes};
    input->next += bytes;
    return slice;
}

struct pleat_slice fuzz_rest(struct fuzz_input *input) {
    return fuzz_slice(input, fuzz_left(input));
}

uint8_t *fuzz_copy(const void *data, size_t bytes, size_t beyond) {
    uint8_t *copy = calloc(1, bytes + beyond > 0 ? bytes + beyond : 1);
    FUZZ_CHECK(copy != NULL);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    return copy;
}

int fuzz_order(struct pleat_slice a, struct pleat_slice b) {
    size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = common > 0 ? memcmp(a.data, b.data, common) : 0;
    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void fuzz_mem_grow(struct fuzz_mem *memory, size_t bytes) {
    FUZZ_CHECK_TEXT(bytes <= memory->bound && memory->live <= memory->bound - bytes,
                    "%zu bytes more than the %zu in use, bound %zu", bytes, memory->live, memory->bound);
}

static void *fuzz_mem_alloc(const struct mem *mem, size_t bytes) {
    struct fuzz_mem *memory = mem->context;
    fuzz_mem_grow(memory, bytes);
    void *block = malloc(bytes);
    FUZZ_CHECK(block != NULL);
    memory->live += malloc_usable_size(block);
    return block;
}

static void *fuzz_mem_resize(const struct mem *mem, void *block, size_t bytes) {
    struct fuzz_mem *memory = mem->context;
    memory->live -= block != NULL ? malloc_usable_size(block) : 0;
    fuzz_mem_grow(memory, bytes);
    block = realloc(block, bytes);
    FUZZ_CHECK(block != NULL);
    memory->live += malloc_usable_size(block);
    return block;
}

static void fuzz_mem_release(const struct mem *mem, void *block) {
    struct fuzz_mem *memory = mem->context;
    memory->live -= malloc_usable_size(block);
    free(block);
}

static void *fuzz_mem_map(const struct mem *mem, size_t bytes, bool huge) {
    struct fuzz_mem *memory = mem->context;
    FUZZ_CHECK_TEXT(bytes <= memory->mapped_bound && memory->mapped <= memory->mapped_bound - bytes,
                    "%zu bytes of addresses more than the %zu in use", bytes, memory->mapped);
    memory->mapped += bytes;
    return mem_system.map(&mem_system, bytes, huge);
}

static void fuzz_mem_unmap(const struct mem *mem, void *block, size_t bytes) {
    struct fuzz_mem *memory = mem->context;
    memory->mapped -= bytes;
    mem_system.unmap(&mem_system, block, bytes);
}

void fuzz_mem_init(struct fuzz_mem *memory, size_t input_bytes, size_t times, size_t base) {
    *memory = (struct fuzz_mem){
        .mem = {fuzz_mem_alloc, fuzz_mem_resize, fuzz_mem_release, fuzz_mem_map, fuzz_mem_unmap, NULL, memory},
        .bound = input_bytes * times + base,
    };
}

void fuzz_mem_fini(const struct fuzz_mem *memory) {
    FUZZ_CHECK_TEXT(memory->live == 0, "%zu bytes leaked", memory->live);
    FUZZ_CHECK_TEXT(memory->mapped == 0, "%zu mapped bytes leaked", memory->mapped);
}

/* ---- a disk ----------------------------------------------------------------------------------------------------- */

/* An open file; the disk is found through it. */
struct vfs_file {
    struct fuzz_disk *disk;
    struct pleat_slice content;
};

struct vfs_dir *fuzz_disk_dir(struct fuzz_disk *disk) {
    return (struct vfs_dir *)(void *)disk;
}

static int disk_open(struct vfs_dir *dir, const char *name, enum vfs_file_mode how, uint32_t mode,
                     struct vfs_file **ret_file, struct pleat_error *err) {
    struct fuzz_disk *disk = (struct fuzz_disk *)(void *)dir;
    (void)mode;
    FUZZ_CHECK(how == VFS_FILE_READ);
    for (size_t i = 0; i < FUZZ_FILES_MAX; i++) {
        if (disk->files[i].name != NULL && strcmp(disk->files[i].name, name) == 0) {
            struct vfs_file *file = malloc(sizeof *file);
            FUZZ_CHECK(file != NULL);
            *file = (struct vfs_file){disk, disk->files[i].content};
            disk->open_handles++;
            *ret_file = file;
            return 0;
        }
    }
    return error_set(err, PLEAT_ERR_NOT_FOUND, 0, "%.60s is not there", name);
}

static void disk_close(struct vfs_file *file) {
    file->disk->open_handles--;
    free(file);
}

static int disk_read(struct vfs_file *file, uint64_t offset, void *buffer, size_t n, struct pleat_error *err) {
    size_t bytes = file->content.bytes;
    if (offset > bytes || n > bytes - offset) {
        return error_set(err, PLEAT_ERR_CORRUPT, 0, "a read beyond the file");
    }
    if (n > 0) {
        memcpy(buffer, (const uint8_t *)file->content.data + offset, n);
    }
    return 0;
}

static int disk_size(struct vfs_file *file, uint64_t *ret_bytes, struct pleat_error *err) {
    (void)err;
    *ret_bytes = file->content.bytes;
    return 0;
}

static void disk_will_read(struct vfs_file *file, uint64_t offset, uint64_t n) {
    (void)file, (void)offset, (void)n;
}

static uint64_t disk_next_data(struct vfs_file *file, uint64_t offset) {
    (void)file;
    return offset;
}

static int disk_unlink(struct vfs_dir *dir, const char *name, struct pleat_error *err) {
    (void)dir;
    FUZZ_CHECK_TEXT(false, "%s is to be removed", name);
    return error_set(err, PLEAT_ERR_READ_ONLY, 0, "read-only");
}

void fuzz_disk_init(struct fuzz_disk *disk) {
    *disk = (struct fuzz_disk){.vfs = {.file_open = disk_open,
                                       .file_close = disk_close,
                                       .file_read = disk_read,
                                       .file_size = disk_size,
                                       .file_will_read = disk_will_read,
                                       .file_next_data = disk_next_data,
                                       .dir_unlink = disk_unlink,
                                       .context = disk}};
}

void fuzz_disk_put(struct fuzz_disk *disk, const char *name, const void *data, size_t bytes) {
    size_t at = 0;
    while (at < FUZZ_FILES_MAX && disk->files[at].name != NULL && strcmp(disk->files[at].name, name) != 0) {
        at++;
    }
    FUZZ_CHECK(at < FUZZ_FILES_MAX);
    disk->files[at].name = name;
    disk->files[at].content = (struct pleat_slice){data, bytes};
}

/*
 * error.h - filling the caller's struct pleat_error.
 *
 * Functions return 0 (ok), a negative enum pleat_status (error) or a positive one (a normal "no"). The text goes to
 * an optional last argument owned by the caller. The first failure wins: a later error_set on the same object keeps
 * the earlier text, so clean-up paths cannot hide the cause. Messages name lengths, offsets, limits and file names of
 * the store, never the user's bytes.
 */
#ifndef PLEAT_BASE_ERROR_H
#define PLEAT_BASE_ERROR_H

#include "pleat/pleat.h"

#include <stdint.h>

/* Writes code, errno and text unless *err holds an earlier failure. err may be NULL. Returns `code`. */
int error_set(struct pleat_error *err, int code, int os_errno, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* PLEAT_ERR_NO_MEMORY for a failed allocation of `bytes`; returns the code. */
int error_no_memory(struct pleat_error *err, const char *what, uint64_t bytes);

/* PLEAT_ERR_CORRUPT: `file` at `offset`, what was expected and what was found; returns the code. */
int error_corrupt(struct pleat_error *err, const char *file, uint64_t offset, const char *what, uint64_t expected,
                  uint64_t found);

/* Maps an errno of a failed system call on `file` to a status (ENOSPC, EDQUOT: NO_SPACE; EACCES, EPERM: DENIED;
 * EROFS: READ_ONLY; ENOMEM: NO_MEMORY; ENOENT: NOT_FOUND; EEXIST: EXISTS; else IO), sets the text, returns the code. */
int error_system(struct pleat_error *err, int os_errno, const char *operation, const char *file);

/* Forgets an earlier failure; every public call does this first. err may be NULL. */
void error_clear(struct pleat_error *err);

#endif

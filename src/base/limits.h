/*
 * limits.h - every fixed limit of formats and API in one place, with the relations between them.
 */
#ifndef PLEAT_BASE_LIMITS_H
#define PLEAT_BASE_LIMITS_H

#include <assert.h>
#include <stdint.h>

#define LIMIT_KEY_BYTES 65535u               /* a key, any content, the empty one included */
#define LIMIT_VALUE_BYTES 4294967295ull     /* a value by format; an option sets a lower limit */
#define LIMIT_ENTRY_BYTES 4294967167ull     /* key, value and version: a block of one entry has a length of 32 bits */
#define LIMIT_VERSION_BYTES 32u              /* the caller's version beside a value */
#define LIMIT_CURSOR_BYTES 1024u             /* a resume cursor */
#define LIMIT_CURSOR_NAME_BYTES 255u         /* its name; the default name is empty */
#define LIMIT_INCARNATION_BYTES 64u          /* the identity of the stream that a cursor belongs to */
#define LIMIT_CURSORS 1024u                  /* named cursors of a store */
#define LIMIT_SPACE_NAME_BYTES 255u          /* 1..255 */
#define LIMIT_SPACES 1024u                   /* live spaces; thousands of namespaces are key prefixes */
#define LIMIT_LEVELS 7u                      /* level 0 overlaps; 1..6 are sorted and disjoint */
#define LIMIT_RECORD_BYTES (16ull << 30)     /* one commit in the log */

static_assert(LIMIT_KEY_BYTES == UINT16_MAX, "key lengths are kept in 16 bits");
static_assert(LIMIT_VALUE_BYTES == (uint64_t)UINT32_MAX, "value lengths are kept in 32 bits");

#endif

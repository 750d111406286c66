/*
 * assert.h - the project's own assertions.
 *
 * ASSERT is on in every build: cheap facts whose breach is a programming error of ours. DEBUG_ASSERT guards
 * whole-structure checks and is on when PLEAT_DEBUG is defined (debug, sanitizer and fuzz builds). Bytes that come
 * from disk or from a caller are never asserted; they are verified and answered with an error.
 */
#ifndef PLEAT_BASE_ASSERT_H
#define PLEAT_BASE_ASSERT_H

_Noreturn void assert_failed(const char *expression, const char *file, int line);

#define ASSERT(expression) \
    (__builtin_expect(!(expression), 0) ? assert_failed(#expression, __FILE__, __LINE__) : (void)0)

#ifdef PLEAT_DEBUG
#define DEBUG_ASSERT(expression) ASSERT(expression)
#else
#define DEBUG_ASSERT(expression) ((void)sizeof((expression) ? 1 : 0))
#endif

#define LIKELY(expression) __builtin_expect(!!(expression), 1)
#define UNLIKELY(expression) __builtin_expect(!!(expression), 0)

#endif

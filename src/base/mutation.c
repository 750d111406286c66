/* mutation.c - which defect the environment asks for: see mutation.h. Compiled in mutation builds alone. */
#include "base/mutation.h"

#include <stdlib.h>
#include <string.h>

enum mutation mutation_planted;

/* Before main, so that no thread is there yet. A name that is not on the list stops the process: a typing error must
 * not pass for a defect that no test finds. */
__attribute__((constructor)) static void mutation_plant(void) {
    static const char *const names[] = {"none",
#define MUTATION_NAME(name, promise, what) #name,
                                        MUTATIONS(MUTATION_NAME)
#undef MUTATION_NAME
    };
    const char *asked = getenv("PLEAT_MUTATION");
    if (asked == NULL) {
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(asked, names[i]) == 0) {
            mutation_planted = (enum mutation)i;
            return;
        }
    }
    _Exit(99);
}

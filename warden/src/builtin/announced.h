/* Paths that were told of as created because a new directory was looked through. The kernel may be about to tell
 * of them, too, and nobody is to hear it twice. */
#ifndef ANNOUNCED_H
#define ANNOUNCED_H

#include <stdbool.h>

void announced_add(const char *path);

/* Whether it was told of; from now on it no longer counts as that. */
bool announced_take(const char *path);
bool announced_any(void);
void announced_clear(void);

#endif

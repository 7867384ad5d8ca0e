/* What a watch tells, as events of the protocol. */
#ifndef CHANGE_H
#define CHANGE_H

#include <stdbool.h>

enum change { READY = 1, CREATE, WRITE, REMOVE, RENAME, CHMOD, OVERFLOW };

/* Paths are shorter than PATH_MAX and relative; `to` only goes with RENAME. */
void tell(enum change change, bool is_directory, const char *path, const char *to);

/* Sends what was told. Writing to one file again is told again only after it. */
void tell_flush(void);

#endif

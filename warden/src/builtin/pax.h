/* The headers of a tar that only say more about the member after them: POSIX's ("pax") and GNU's. */
#ifndef PAX_H
#define PAX_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* What they say goes before what the member's own header says. */
struct pax {
	bool has_path, has_link, has_size, has_modified, is_sparse;
	char path[PATH_MAX], link[PATH_MAX];
	uint64_t size;
	struct timespec modified;
};

bool pax_is_extended(int type);

/* Reads the content of such a header from standard input. */
int pax_read(struct pax *pax, int type, uint64_t size);

#endif

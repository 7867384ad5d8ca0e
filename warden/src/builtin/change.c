#include "change.h"

#include "emit.h"

#include <limits.h>
#include <string.h>

/* No relative path is this. */
#define NOTHING "/"

static char last_written[PATH_MAX] = NOTHING;

void tell(enum change change, bool is_directory, const char *path, const char *to)
{
	size_t length = 1 + 1 + 4 + strlen(path) + (to ? 4 + strlen(to) : 0);

	/* What is written once is seen by more than one event. */
	if (change == WRITE && !strcmp(last_written, path))
		return;
	strcpy(last_written, change == WRITE ? path : NOTHING);
	emit_u32((uint32_t)length);
	emit_u8((uint8_t)change);
	emit_u8(is_directory);
	emit_str(path);
	if (to)
		emit_str(to);
}

void tell_flush(void)
{
	emit_flush();
	strcpy(last_written, NOTHING);
}

/* What stands in for the parts of the warden that need a sandbox. */
#include "stand_ins.h"

#include <errno.h>
#include <string.h>

#include "../src/builtin/builtin.h"
#include "../src/init.h"
#include "../src/mark.h"
#include "../src/process.h"
#include "../src/record.h"

struct asked asked;
unsigned char boot_id[BOOT_ID_BYTES];

void init_end(int code)
{
	(void)code;
}

static int no_operation(int argc, char **argv)
{
	(void)argv;
	return argc;
}

builtin_run *builtin_find(const char *name)
{
	return *name == 'b' ? no_operation : NULL;
}

int record_set(uint64_t version, int64_t lease_ms, int64_t idle_ms, const struct text *blob)
{
	asked.version = version;
	asked.lease_ms = lease_ms;
	asked.idle_ms = idle_ms;
	asked.has_blob = blob != NULL;
	asked.blob_length = blob ? blob->length : 0;
	if (blob && blob->length <= sizeof asked.blob)
		memcpy(asked.blob, blob->at, blob->length);
	return version == 1 ? 0 : EAGAIN;
}

void record_put(struct out *out, uint32_t stream)
{
	frame_end(out, frame_begin(out, F_RECORD_IS, stream));
}

void record_note_activity(void)
{
}

int mark_signal(gid_t mark, int signal)
{
	(void)mark;
	asked.signal = signal;
	return 0;
}

void spawn_resize(struct process *process, uint16_t rows, uint16_t columns)
{
	(void)process;
	asked.rows = rows;
	asked.columns = columns;
}

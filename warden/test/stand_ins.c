/* What stands in for the parts of the warden that need a sandbox. */
#include "stand_ins.h"

#include <errno.h>
#include <string.h>

#include "../src/builtin/builtin.h"
#include "../src/disk.h"
#include "../src/init.h"
#include "../src/mark.h"
#include "../src/process.h"

struct asked asked;
unsigned char boot_id[BOOT_ID_BYTES];

void init_end(int code)
{
	(void)code;
}

bool init_is_ending(void)
{
	return false;
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

bool builtin_writes(const char *name)
{
	return *name == 'b';
}

bool disk_is_full(void)
{
	return false;
}

bool disk_is_closed(void)
{
	return false;
}

struct disk_use disk_used(void)
{
	return (struct disk_use){ DISK_UNKNOWN, DISK_UNKNOWN };
}

void disk_reaped(pid_t pid)
{
	(void)pid;
}

int record_set(const struct record_change *change)
{
	asked.change = *change;
	if (change->blob.length <= sizeof asked.blob)
		memcpy(asked.blob, change->blob.at, change->blob.length);
	return change->version == 1 ? 0 : EAGAIN;
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
	return mark_signal_session(mark, 0, signal);
}

int mark_signal_session(gid_t mark, pid_t session, int signal)
{
	(void)mark;
	(void)session;
	asked.signal = signal;
	return 0;
}

void spawn_resize(struct process *process, uint16_t rows, uint16_t columns)
{
	(void)process;
	asked.rows = rows;
	asked.columns = columns;
}

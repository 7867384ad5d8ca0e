#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"
#include "loop.h"
#include "process.h"

#define RECORD_FILE STATE_DIRECTORY "/record"
#define NEW_RECORD_FILE STATE_DIRECTORY "/record.new"
/* Its first line: format, version, end of the lease in ms since 1970 or 0, idle timeout. The blob follows. */
#define HEAD "sandyard-record 1 %" PRIu64 " %" PRId64 " %" PRId64 "\n"

struct record {
	uint64_t version;
	/* By a clock that nobody can set; on disk by the wall clock, the only one that goes on while the sandbox
	 * is stopped. */
	int64_t lease_ends;
	int64_t idle_ms;
	char *blob;
	uint32_t blob_length;
};

static struct record record;
static int64_t last_activity;
static struct timer lease_timer, idle_timer;

static void on_lease_end(struct timer *timer)
{
	(void)timer;
	init_end(END_LEASE);
}

static void on_idle(struct timer *timer)
{
	int64_t left = last_activity + record.idle_ms - now_ms();

	if (process_count() > 0)
		left = record.idle_ms;
	if (left <= 0)
		init_end(END_IDLE);
	else
		timer_set(timer, left);
}

static void set_timers(void)
{
	int64_t left = record.lease_ends - now_ms();

	lease_timer.fire = on_lease_end;
	idle_timer.fire = on_idle;
	if (record.lease_ends)
		timer_set(&lease_timer, left > 0 ? left : 0);
	if (record.idle_ms)
		timer_set(&idle_timer, record.idle_ms);
	else
		timer_stop(&idle_timer);
}

void record_note_activity(void)
{
	last_activity = now_ms();
}

static int write_all(int fd, const char *data, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, data, length);

		if (written < 0)
			return -1;
		data += written;
		length -= (size_t)written;
	}
	return 0;
}

static int save(const struct record *next)
{
	int64_t ends = next->lease_ends ? next->lease_ends - now_ms() + wall_ms() : 0;
	int fd = open(NEW_RECORD_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	char head[128];
	int length = snprintf(head, sizeof head, HEAD, next->version, ends, next->idle_ms);
	int result;

	if (fd < 0)
		return errno;
	result = write_all(fd, head, (size_t)length) < 0 || write_all(fd, next->blob, next->blob_length) < 0 ||
		 fsync(fd) < 0 || rename(NEW_RECORD_FILE, RECORD_FILE) < 0 ? errno : 0;
	close(fd);
	if (result)
		unlink(NEW_RECORD_FILE);
	return result;
}

static bool load(void)
{
	int fd = open(RECORD_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char *text = must(malloc(BLOB_MAX + 256));
	ssize_t length = fd < 0 ? -1 : read(fd, text, BLOB_MAX + 255);
	int64_t ends;
	char *blob;

	if (fd >= 0)
		close(fd);
	text[length < 0 ? 0 : length] = '\0';
	blob = strchr(text, '\n');
	if (!blob || sscanf(text, HEAD, &record.version, &ends, &record.idle_ms) != 3) {
		free(text);
		return false;
	}
	blob++;
	record.lease_ends = ends ? ends - wall_ms() + now_ms() : 0;
	/* One that has run out is not none. */
	if (ends && record.lease_ends <= 0)
		record.lease_ends = 1;
	record.blob_length = (uint32_t)(text + length - blob);
	record.blob = must(malloc(record.blob_length + 1));
	memcpy(record.blob, blob, record.blob_length);
	free(text);
	return true;
}

void record_open(int64_t lease_ms, int64_t idle_ms)
{
	record_note_activity();
	if (!load()) {
		record.version = 1;
		record.lease_ends = lease_ms ? now_ms() + lease_ms : 0;
		record.idle_ms = idle_ms;
		/* Where nothing can be written it is kept while the sandbox runs. */
		save(&record);
	}
	set_timers();
}

int record_set(uint64_t version, int64_t lease_ms, int64_t idle_ms, const struct text *blob)
{
	struct record next = record;
	int error;

	if (version != 0 && version != record.version)
		return EAGAIN;
	next.version++;
	if (lease_ms != KEEP)
		next.lease_ends = now_ms() + lease_ms;
	if (idle_ms != KEEP)
		next.idle_ms = idle_ms;
	if (blob) {
		next.blob = must(malloc(blob->length + 1));
		memcpy(next.blob, blob->at, blob->length);
		next.blob_length = blob->length;
	}
	error = save(&next);
	if (blob)
		free(error ? next.blob : record.blob);
	if (error)
		return error;
	record = next;
	record_note_activity();
	set_timers();
	return 0;
}

void record_put(struct out *out, uint32_t stream)
{
	size_t frame = frame_begin(out, F_RECORD_IS, stream);
	int64_t left = record.lease_ends - now_ms();

	out_u64(out, record.version);
	out_u64(out, record.lease_ends ? (uint64_t)(left > 0 ? left : 0) : UINT64_MAX);
	out_u64(out, (uint64_t)record.idle_ms);
	out_text(out, record.blob, record.blob_length);
	frame_end(out, frame);
}

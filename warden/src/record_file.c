#include "record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop.h"

#define RECORD_FILE STATE_DIRECTORY "/record"
#define NEW_RECORD_FILE STATE_DIRECTORY "/record.new"
#define HEAD_MAX 256
/* More than this is a file. What of a path of Linux's 4096 bytes is left is for the directory that the engine has it in. */
#define LINKED_MAX 2200
#define LINK_MAX 3072
/* No name in a path is longer than 255. */
#define SEGMENT 200
/* The kernel's header for it doesn't go with the C library's. */
#define EXCHANGE 2u
/* Whoever changes it is likely to use the sandbox next. */
#define TIDY_MS 100
/* Its first line, as PROTOCOL.md has it: format, checksum, and the fields that the checksum covers, as it does the
 * blob behind them. */
#define FORMAT "sandyard-record 2 %08" PRIx32 " "
#define READ_FORMAT "sandyard-record 2 %8" SCNx32 " "
#define FORMAT_LENGTH (sizeof "sandyard-record 2 01234567 " - 1)
#define FIELDS "%" PRIu32 " %" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 " %u %" PRId64 " %u\n"
#define READ_FIELDS "%" SCNu32 " %" SCNu64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %u %" SCNd64 " %u"

/* CRC-32 as in zlib, by half bytes. */
static uint32_t checksum(uint32_t sum, const char *data, size_t length)
{
	static const uint32_t table[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
					    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
					    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };

	sum = ~sum;
	for (size_t i = 0; i < length; i++) {
		sum = table[(sum ^ (uint8_t)data[i]) & 15] ^ sum >> 4;
		sum = table[(sum ^ (uint32_t)(uint8_t)data[i] >> 4) & 15] ^ sum >> 4;
	}
	return ~sum;
}

static int64_t to_wall(int64_t time)
{
	int64_t wall = time == NEVER ? 0 : time - now_ms() + wall_ms();

	return wall > 0 || time == NEVER ? wall : 1;
}

static int64_t from_wall(int64_t wall)
{
	return wall == 0 ? NEVER : wall - wall_ms() + now_ms();
}

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* What is a path of names that are nowhere. */
static void to_target(char *target, const char *text, size_t length)
{
	uint32_t bits = 0;
	unsigned int kept = 0;
	size_t written = 0;

	for (size_t i = 0; i < length || kept > 0;) {
		if (kept < 6 && i < length) {
			bits = bits << 8 | (uint8_t)text[i++];
			kept += 8;
		} else if (kept < 6) {
			bits <<= 6 - kept;
			kept = 6;
		}
		kept -= 6;
		if (written > 0 && written % SEGMENT == 0)
			*target++ = '/';
		*target++ = digits[bits >> kept & 63];
		written++;
	}
	*target = '\0';
}

/* Returns how long the text is, or -1 where that is no such target. */
static ssize_t from_target(char *text, const char *target, size_t length)
{
	uint32_t bits = 0;
	unsigned int kept = 0;
	ssize_t written = 0;

	for (size_t i = 0; i < length; i++) {
		const char *digit = target[i] ? strchr(digits, target[i]) : NULL;

		if (target[i] == '/')
			continue;
		if (!digit)
			return -1;
		bits = bits << 6 | (uint32_t)(digit - digits);
		kept += 6;
		if (kept >= 8) {
			kept -= 8;
			text[written++] = (char)(bits >> kept);
		}
	}
	return written;
}

static int save_link(const char *text, size_t length)
{
	char target[LINK_MAX];

	to_target(target, text, length);
	return symlink(target, NEW_RECORD_FILE) < 0 ? errno : 0;
}

static int save_file(const char *text, size_t length)
{
	int fd = open(NEW_RECORD_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ssize_t written;
	int error = 0;

	if (fd < 0)
		return errno;
	written = write(fd, text, length);
	if (written < 0)
		error = errno;
	else if ((size_t)written < length)
		error = ENOSPC;
	close(fd);
	return error;
}

static int save_new(const char *text, size_t length)
{
	return length <= LINKED_MAX ? save_link(text, length) : save_file(text, length);
}

static void on_tidy(struct timer *timer)
{
	(void)timer;
	unlink(NEW_RECORD_FILE);
}

/* What was there is put aside, and removed when nobody waits: to free it can take a file system longer than all else. */
static int put_in_place(void)
{
	static struct timer tidy_timer = { .fire = on_tidy };

	if (syscall(SYS_renameat2, AT_FDCWD, NEW_RECORD_FILE, AT_FDCWD, RECORD_FILE, EXCHANGE) == 0) {
		timer_set(&tidy_timer, TIDY_MS);
		return 0;
	}
	/* It is the first, or can't be exchanged here, as in gVisor. */
	return rename(NEW_RECORD_FILE, RECORD_FILE) < 0 ? errno : 0;
}

/*
 * Where it fits it is the target of a symbolic link, which an engine reads by itself: for a file it has a process, which
 * takes fifty times as long, and a manager that begins may read hundreds.
 *
 * Replaced by rename, and not synced: a record has to outlive managers, this process and the engine, and what has been
 * written outlives those without it. With a sync PID 1, which all of the sandbox waits for, would wait for
 * whatever else is being written to the disk. What only a sync would keep it from is a loss of power: the record is then
 * the old one, the new one, or damaged, which the checksum tells.
 */
int record_save(const struct record *record)
{
	static char text[HEAD_MAX + BLOB_MAX];
	char format[FORMAT_LENGTH + 1];
	size_t length = FORMAT_LENGTH;
	int error;

	length += (size_t)snprintf(text + length, HEAD_MAX - FORMAT_LENGTH, FIELDS, record->blob_length,
				   record->version, to_wall(record->lease_ends), record->idle_ms, record->ttl_ms,
				   record->on_expiry, to_wall(record->last_ends), record->taken);
	if (record->blob_length > 0)
		memcpy(text + length, record->blob, record->blob_length);
	length += record->blob_length;
	snprintf(format, sizeof format, FORMAT, checksum(0, text + FORMAT_LENGTH, length - FORMAT_LENGTH));
	memcpy(text, format, FORMAT_LENGTH);
	error = save_new(text, length);
	if (error == EEXIST) {
		/* One that was put aside, or was being written when the sandbox ended. */
		unlink(NEW_RECORD_FILE);
		error = save_new(text, length);
	}
	if (!error)
		error = put_in_place();
	if (error)
		unlink(NEW_RECORD_FILE);
	return error;
}

static bool is_time(int64_t time)
{
	return time >= 0 && time <= TIME_MAX_MS;
}

static bool parse(const char *text, size_t length, struct record *record)
{
	const char *end = memchr(text, '\n', length < HEAD_MAX ? length : HEAD_MAX);
	const char *blob = end ? end + 1 : NULL;
	unsigned int on_expiry, taken;
	int64_t lease, last;
	uint32_t sum;

	if (!end || (size_t)(end - text) < FORMAT_LENGTH || sscanf(text, READ_FORMAT, &sum) != 1)
		return false;
	if (checksum(0, text + FORMAT_LENGTH, length - FORMAT_LENGTH) != sum)
		return false;
	if (sscanf(text + FORMAT_LENGTH, READ_FIELDS, &record->blob_length, &record->version, &lease, &record->idle_ms,
		   &record->ttl_ms, &on_expiry, &last, &taken) != 8)
		return false;
	if (record->blob_length > BLOB_MAX || record->blob_length != (size_t)(text + length - blob))
		return false;
	/* Ends of leases are as far from 1970 as they are from now, and further. */
	if (lease < 0 || last < 0 || lease > 2 * TIME_MAX_MS || last > 2 * TIME_MAX_MS)
		return false;
	if (record->version == 0 || !is_time(record->idle_ms) || !is_time(record->ttl_ms))
		return false;
	if (on_expiry > EXPIRY_PAUSE || taken > 1)
		return false;
	record->lease_ends = from_wall(lease);
	record->last_ends = from_wall(last);
	record->on_expiry = (uint8_t)on_expiry;
	record->taken = taken;
	record->blob = must(malloc(record->blob_length + 1));
	memcpy(record->blob, blob, record->blob_length);
	return true;
}

static ssize_t read_file(char *text)
{
	int fd = open(RECORD_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return -1;
	length = read(fd, text, BLOB_MAX + HEAD_MAX);
	close(fd);
	return length;
}

enum loaded record_load(struct record *record)
{
	char target[LINK_MAX];
	ssize_t length = readlink(RECORD_FILE, target, sizeof target);
	struct record found = { 0 };
	bool is_good;
	char *text;

	if (length < 0 && errno != EINVAL)
		return errno == ENOENT ? RECORD_ABSENT : RECORD_DAMAGED;
	text = must(malloc(BLOB_MAX + HEAD_MAX + 1));
	length = length < 0 ? read_file(text) : from_target(text, target, (size_t)length);
	text[length < 0 ? 0 : length] = '\0';
	is_good = length > 0 && parse(text, (size_t)length, &found);
	free(text);
	if (is_good)
		*record = found;
	return is_good ? RECORD_LOADED : RECORD_DAMAGED;
}

#include "record_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "loop.h"

#define RECORD_FILE STATE_DIRECTORY "/record"
#define NEW_RECORD_FILE STATE_DIRECTORY "/record.new"
#define HEAD_MAX 256
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

/*
 * Replaced by rename, and not synced: a record has to outlive managers, this process and the engine, and what has been
 * written to a file outlives those without it. With a sync PID 1, which all of the sandbox waits for, would wait for
 * whatever else is being written to the disk. What only a sync would keep it from is a loss of power: the file is then
 * the old one, the new one, or damaged, which the checksum tells.
 */
int record_save(const struct record *record)
{
	int fd = open(NEW_RECORD_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	char format[FORMAT_LENGTH + 1], fields[HEAD_MAX - FORMAT_LENGTH];
	int length = snprintf(fields, sizeof fields, FIELDS, record->blob_length, record->version,
			      to_wall(record->lease_ends), record->idle_ms, record->ttl_ms, record->on_expiry,
			      to_wall(record->last_ends), record->taken);
	uint32_t sum = checksum(checksum(0, fields, (size_t)length), record->blob, record->blob_length);
	struct iovec parts[] = { { format, FORMAT_LENGTH },
				 { fields, (size_t)length },
				 { record->blob, record->blob_length } };
	ssize_t written;
	int error = 0;

	if (fd < 0)
		return errno;
	snprintf(format, sizeof format, FORMAT, sum);
	written = writev(fd, parts, 3);
	if (written < 0)
		error = errno;
	else if ((size_t)written < FORMAT_LENGTH + (size_t)length + record->blob_length)
		error = ENOSPC;
	else if (rename(NEW_RECORD_FILE, RECORD_FILE) < 0)
		error = errno;
	close(fd);
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

enum loaded record_load(struct record *record)
{
	int fd = open(RECORD_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct record found = { 0 };
	bool is_good;
	ssize_t length;
	char *text;

	if (fd < 0)
		return errno == ENOENT ? RECORD_ABSENT : RECORD_DAMAGED;
	text = must(malloc(BLOB_MAX + HEAD_MAX + 1));
	length = read(fd, text, BLOB_MAX + HEAD_MAX);
	close(fd);
	text[length < 0 ? 0 : length] = '\0';
	is_good = length > 0 && parse(text, (size_t)length, &found);
	free(text);
	if (is_good)
		*record = found;
	return is_good ? RECORD_LOADED : RECORD_DAMAGED;
}

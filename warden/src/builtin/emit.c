#include "emit.h"

#include "operation.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

static unsigned char buffer[CHUNK];
static size_t used;

void emit_flush(void)
{
	int error = write_all(STDOUT_FILENO, buffer, used);

	if (error)
		_exit(error);
	used = 0;
}

void *emit_room(size_t *room)
{
	if (used == sizeof(buffer))
		emit_flush();
	*room = sizeof(buffer) - used;
	return buffer + used;
}

void emit_added(size_t size)
{
	used += size;
}

void emit_bytes(const void *data, size_t size)
{
	const unsigned char *rest = data;

	while (size > 0) {
		size_t part;
		void *room = emit_room(&part);

		if (part > size)
			part = size;
		memcpy(room, rest, part);
		emit_added(part);
		rest += part;
		size -= part;
	}
}

void emit_zeros(size_t size)
{
	while (size > 0) {
		size_t part;
		void *room = emit_room(&part);

		if (part > size)
			part = size;
		memset(room, 0, part);
		emit_added(part);
		size -= part;
	}
}

static void emit_number(uint64_t value, size_t size)
{
	unsigned char bytes[8];

	for (size_t i = 0; i < size; i++)
		bytes[i] = (unsigned char)(value >> (8 * i));
	emit_bytes(bytes, size);
}

void emit_u8(uint8_t value)
{
	emit_number(value, 1);
}

void emit_u32(uint32_t value)
{
	emit_number(value, 4);
}

void emit_u64(uint64_t value)
{
	emit_number(value, 8);
}

void emit_str(const char *text)
{
	size_t length = strlen(text);

	emit_u32((uint32_t)length);
	emit_bytes(text, length);
}

static uint8_t type_of(mode_t mode)
{
	if (S_ISREG(mode))
		return 'f';
	if (S_ISDIR(mode))
		return 'd';
	return S_ISLNK(mode) ? 'l' : 'o';
}

void emit_entry(int dir, const char *name, const struct stat *status, const char *shown)
{
	const size_t fixed = 1 + 4 + 8 + 8 + 4 + 4 + 4 + 8 + 4 + 4;
	char target[PATH_MAX] = "";

	if (S_ISLNK(status->st_mode)) {
		ssize_t length = readlinkat(dir, name, target, sizeof(target) - 1);

		/* One that went meanwhile is shown without its target. */
		target[length > 0 ? length : 0] = '\0';
	}
	emit_u32((uint32_t)(fixed + strlen(shown) + strlen(target)));
	emit_u8(type_of(status->st_mode));
	emit_u32(status->st_mode & 07777);
	emit_u64((uint64_t)status->st_size);
	emit_u64((uint64_t)status->st_mtim.tv_sec);
	emit_u32((uint32_t)status->st_mtim.tv_nsec);
	emit_u32(status->st_uid);
	emit_u32(status->st_gid);
	emit_u64(status->st_ino);
	emit_str(shown);
	emit_str(target);
}

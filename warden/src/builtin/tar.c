#include "tar.h"

#include "operation.h"
#include "pax.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static unsigned char input[CHUNK];
static size_t input_start, input_end;

size_t tar_padding(uint64_t size)
{
	return (size_t)(-size % TAR_BLOCK);
}

uint32_t tar_checksum(const struct tar_header *header)
{
	const unsigned char *bytes = (const unsigned char *)header;
	const size_t start = offsetof(struct tar_header, checksum);
	uint32_t sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= start && i < start + sizeof(header->checksum) ? ' ' : bytes[i];
	return sum;
}

int tar_content(const void **data, size_t *got, uint64_t size)
{
	*got = 0;
	if (input_start == input_end) {
		ssize_t filled = read_full(STDIN_FILENO, input, sizeof(input));

		if (filled <= 0)
			return filled < 0 ? errno : EBADMSG;
		input_start = 0;
		input_end = (size_t)filled;
	}
	*data = input + input_start;
	*got = input_end - input_start;
	if (*got > size)
		*got = (size_t)size;
	input_start += *got;
	return 0;
}

int tar_skip(uint64_t size)
{
	while (size > 0) {
		const void *data;
		size_t got;
		int error = tar_content(&data, &got, size);

		if (error)
			return error;
		size -= got;
	}
	return 0;
}

int tar_read(void *buffer, size_t size)
{
	char *rest = buffer;

	while (size > 0) {
		const void *data;
		size_t got;
		int error = tar_content(&data, &got, size);

		if (error)
			return error;
		memcpy(rest, data, got);
		rest += got;
		size -= got;
	}
	return 0;
}

/* Two's complement in all bits but the first, which says that it is so. */
static bool parse_binary(const unsigned char *field, size_t size, int64_t *value)
{
	uint64_t number = field[0] & 0x40 ? UINT64_MAX : 0;

	for (size_t i = 0; i < size; i++) {
		uint64_t top = number >> 55;

		/* What is shifted out, and the sign after it, must all be the same. */
		if (i > 0 && top != 0 && top != 0x1ff)
			return false;
		number = number << 8 | (i == 0 ? (field[0] & 0x40 ? field[0] : field[0] & 0x3f) : field[i]);
	}
	*value = (int64_t)number;
	return true;
}

/* Octal, with spaces before and a space or NUL after it where there is room; empty is 0. */
static bool parse_field(const char *field, size_t size, int64_t *value)
{
	size_t i = 0;

	if ((unsigned char)field[0] & 0x80)
		return parse_binary((const unsigned char *)field, size, value);
	*value = 0;
	while (i < size && field[i] == ' ')
		i++;
	while (i < size && field[i] >= '0' && field[i] <= '7')
		*value = *value * 8 + (field[i++] - '0');
	return i == size || field[i] == ' ' || field[i] == '\0';
}

static int member_type(const struct tar_header *header, const char *path)
{
	size_t length = strlen(path);

	switch (header->type) {
	case TAR_FILE:
	case '\0':
		/* So were directories before they had a type of their own. */
		return length > 0 && path[length - 1] == '/' ? TAR_DIRECTORY : TAR_FILE;
	case '7':
		return TAR_FILE;
	default:
		return header->type;
	}
}

static void copy_field(char *to, const char *field, size_t size)
{
	size_t length = strnlen(field, size);

	memcpy(to, field, length);
	to[length] = '\0';
}

static void fill_paths(struct tar_member *member, const struct tar_header *header, const struct pax *pax)
{
	size_t start = 0;

	/* GNU's own format has other things where the prefix would be. */
	if (!memcmp(header->magic, "ustar", 6) && header->prefix[0]) {
		copy_field(member->path, header->prefix, sizeof(header->prefix));
		start = strlen(member->path);
		member->path[start++] = '/';
	}
	copy_field(member->path + start, header->name, sizeof(header->name));
	copy_field(member->link, header->link, sizeof(header->link));
	if (pax->has_path)
		strcpy(member->path, pax->path);
	if (pax->has_link)
		strcpy(member->link, pax->link);
}

static int fill_member(struct tar_member *member, const struct tar_header *header, const struct pax *pax)
{
	int64_t mode, modified, size;

	if (!parse_field(header->mode, sizeof(header->mode), &mode) ||
		!parse_field(header->mtime, sizeof(header->mtime), &modified) ||
		!parse_field(header->size, sizeof(header->size), &size))
		return EBADMSG;
	fill_paths(member, header, pax);
	member->type = member_type(header, member->path);
	member->mode = (mode_t)(mode & 07777);
	member->modified = (struct timespec){ .tv_sec = modified };
	if (pax->has_modified)
		member->modified = pax->modified;
	member->size = pax->has_size ? pax->size : (uint64_t)size;
	if (member->type != TAR_FILE)
		member->size = 0;
	/* All others of POSIX are files of some kind; those of capital letters are somebody's own. */
	return pax->is_sparse || member->type < TAR_FILE || member->type > TAR_FIFO ? ENOTSUP : 0;
}

static bool is_zero(const struct tar_header *header)
{
	static const struct tar_header zero;

	return !memcmp(header, &zero, sizeof(zero));
}

/* Whoever sends it may still be writing zeros. */
static int read_to_end(struct tar_member *member)
{
	int error;

	member->type = 0;
	do {
		error = tar_skip(TAR_BLOCK);
	} while (!error);
	return error == EBADMSG ? 0 : error;
}

int tar_next(struct tar_member *member)
{
	static struct pax pax;
	struct tar_header header;

	pax.has_path = pax.has_link = pax.has_size = pax.has_modified = pax.is_sparse = false;
	for (;;) {
		int64_t checksum, size;
		int error = tar_read(&header, sizeof(header));

		if (error)
			return error;
		if (is_zero(&header))
			return read_to_end(member);
		if (!parse_field(header.checksum, sizeof(header.checksum), &checksum) || checksum != tar_checksum(&header))
			return EBADMSG;
		if (!parse_field(header.size, sizeof(header.size), &size) || size < 0)
			return EBADMSG;
		if (!pax_is_extended(header.type))
			return fill_member(member, &header, &pax);
		error = pax_read(&pax, header.type, (uint64_t)size);
		if (error)
			return error;
	}
}

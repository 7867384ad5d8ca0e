#include "pax.h"

#include "operation.h"
#include "tar.h"

#include <errno.h>
#include <string.h>

/* As much of an extended header as anything that can be unpacked needs, and much more. */
#define EXTENDED_MAX ((size_t)1 << 20)

bool pax_is_extended(int type)
{
	return type == 'x' || type == 'g' || type == 'L' || type == 'K';
}

static bool parse_decimal_bytes(const char *text, size_t length, uint64_t *value)
{
	char digits[24];

	if (length >= sizeof(digits))
		return false;
	memcpy(digits, text, length);
	digits[length] = '\0';
	return parse_decimal(digits, value);
}

/* Seconds, perhaps negative, perhaps with a fraction: -1.25 is 0.75 s after -2. */
static bool parse_time(const char *text, size_t length, struct timespec *time)
{
	const char *point = memchr(text, '.', length);
	bool negative = length > 0 && *text == '-';
	size_t whole = point ? (size_t)(point - text) : length;
	long nanoseconds = 0, unit = 100000000;
	uint64_t seconds;

	if (!parse_decimal_bytes(text + negative, whole - negative, &seconds) || seconds > INT64_MAX / 2)
		return false;
	for (size_t i = whole + 1; i < length; i++, unit /= 10) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		nanoseconds += (text[i] - '0') * unit;
	}
	time->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
	time->tv_nsec = nanoseconds;
	if (negative && nanoseconds > 0) {
		time->tv_sec--;
		time->tv_nsec = 1000000000 - nanoseconds;
	}
	return true;
}

static int set_path(char *path, bool *set, const char *value, size_t length)
{
	if (memchr(value, '\0', length))
		return EBADMSG;
	if (length >= PATH_MAX)
		return ENAMETOOLONG;
	memcpy(path, value, length);
	path[length] = '\0';
	*set = true;
	return 0;
}

static int use_record(struct pax *pax, const char *key, const char *value, size_t length)
{
	if (!strcmp(key, "path"))
		return set_path(pax->path, &pax->has_path, value, length);
	if (!strcmp(key, "linkpath"))
		return set_path(pax->link, &pax->has_link, value, length);
	if (!strcmp(key, "size")) {
		pax->has_size = true;
		return parse_decimal_bytes(value, length, &pax->size) && pax->size <= INT64_MAX ? 0 : EBADMSG;
	}
	if (!strcmp(key, "mtime")) {
		pax->has_modified = true;
		return parse_time(value, length, &pax->modified) ? 0 : EBADMSG;
	}
	/* Its content wouldn't be what the file is to hold. */
	if (!strncmp(key, "GNU.sparse.", 11))
		pax->is_sparse = true;
	return 0;
}

/* Records are "LENGTH KEY=VALUE\n"; LENGTH counts all of it. */
static int parse_records(struct pax *pax, char *text, size_t size)
{
	while (size > 0) {
		char *space = memchr(text, ' ', size);
		uint64_t length;
		char *equals;
		int error;

		if (!space || !parse_decimal_bytes(text, (size_t)(space - text), &length))
			return EBADMSG;
		if (length > size || length < (size_t)(space - text) + 2 || text[length - 1] != '\n')
			return EBADMSG;
		text[length - 1] = '\0';
		equals = memchr(space, '=', (size_t)(text + length - space));
		if (!equals)
			return EBADMSG;
		*equals = '\0';
		error = use_record(pax, space + 1, equals + 1, (size_t)(text + length - 1 - (equals + 1)));
		if (error)
			return error;
		text += length;
		size -= length;
	}
	return 0;
}

int pax_read(struct pax *pax, int type, uint64_t size)
{
	static char text[EXTENDED_MAX];
	int error;

	if (size > sizeof(text))
		return EBADMSG;
	error = tar_read(text, (size_t)size);
	if (!error)
		error = tar_skip(tar_padding(size));
	if (error || type == 'g')
		return error;
	if (type == 'x')
		return parse_records(pax, text, (size_t)size);
	/* GNU's long names end with a NUL. */
	if (type == 'K')
		return set_path(pax->link, &pax->has_link, text, strnlen(text, (size_t)size));
	return set_path(pax->path, &pax->has_path, text, strnlen(text, (size_t)size));
}

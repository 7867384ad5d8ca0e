#include "emit.h"
#include "tar.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* What the fields of a header hold. Beyond, and for names that are longer or not ASCII, a pax header goes before
 * it. */
#define SIZE_MAX_OCTAL 077777777777
#define ID_MAX_OCTAL 07777777

static struct {
	char text[TAR_NAME_MAX + PATH_MAX + 512];
	size_t length;
} records;

/* The length at the start of a record counts itself, too. */
static void add_record(const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3;
	size_t length = rest + 1;
	int printed;

	for (size_t power = 10; length >= power; power *= 10)
		length++;
	printed = snprintf(records.text + records.length, sizeof(records.text) - records.length, "%zu %s=%s\n", length,
		key, value);
	records.length += (size_t)printed;
}

static void add_number(const char *key, int64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRId64, value);
	add_record(key, digits);
}

/* Whether every reader takes it from the header alone. */
static bool fits(const char *text)
{
	size_t length = strlen(text);

	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] >= 0x80)
			return false;
	return length <= sizeof(((struct tar_header *)NULL)->name);
}

static void put_octal(char *field, size_t size, uint64_t value)
{
	for (size_t i = size - 1; i-- > 0; value >>= 3)
		field[i] = (char)('0' + (value & 7));
}

static uint64_t up_to(uint64_t value, uint64_t limit)
{
	return value <= limit ? value : 0;
}

static void put_text(char *field, size_t size, const char *text)
{
	size_t length = strlen(text);

	memcpy(field, text, length < size ? length : size);
}

static void emit_header(struct tar_header *header)
{
	memcpy(header->magic, "ustar\0" "00", sizeof(header->magic));
	put_octal(header->checksum, 7, tar_checksum(header));
	header->checksum[7] = ' ';
	emit_bytes(header, sizeof(*header));
}

static void emit_records(void)
{
	struct tar_header header = { .type = 'x' };

	put_text(header.name, sizeof(header.name), "././@PaxHeader");
	put_octal(header.mode, sizeof(header.mode), 0644);
	put_octal(header.uid, sizeof(header.uid), 0);
	put_octal(header.gid, sizeof(header.gid), 0);
	put_octal(header.mtime, sizeof(header.mtime), 0);
	put_octal(header.size, sizeof(header.size), records.length);
	emit_header(&header);
	emit_bytes(records.text, records.length);
	emit_zeros(tar_padding(records.length));
}

static void collect_records(const char *name, const char *link, const struct stat *status, uint64_t size)
{
	records.length = 0;
	if (!fits(name))
		add_record("path", name);
	if (!fits(link))
		add_record("linkpath", link);
	if (size > SIZE_MAX_OCTAL)
		add_number("size", (int64_t)size);
	if (status->st_mtim.tv_sec < 0 || status->st_mtim.tv_sec > SIZE_MAX_OCTAL)
		add_number("mtime", status->st_mtim.tv_sec);
	if (status->st_uid > ID_MAX_OCTAL)
		add_number("uid", status->st_uid);
	if (status->st_gid > ID_MAX_OCTAL)
		add_number("gid", status->st_gid);
}

void tar_emit(const char *name, const char *link, char type, const struct stat *status)
{
	struct tar_header header = { .type = type };
	uint64_t size = type == TAR_FILE ? (uint64_t)status->st_size : 0;

	collect_records(name, link, status, size);
	if (records.length > 0)
		emit_records();
	put_text(header.name, sizeof(header.name), name);
	put_text(header.link, sizeof(header.link), link);
	put_octal(header.mode, sizeof(header.mode), status->st_mode & 07777);
	put_octal(header.uid, sizeof(header.uid), up_to(status->st_uid, ID_MAX_OCTAL));
	put_octal(header.gid, sizeof(header.gid), up_to(status->st_gid, ID_MAX_OCTAL));
	put_octal(header.size, sizeof(header.size), up_to(size, SIZE_MAX_OCTAL));
	put_octal(header.mtime, sizeof(header.mtime), up_to((uint64_t)status->st_mtim.tv_sec, SIZE_MAX_OCTAL));
	if (type == TAR_CHARACTER_DEVICE || type == TAR_BLOCK_DEVICE) {
		put_octal(header.major, sizeof(header.major), up_to(major(status->st_rdev), ID_MAX_OCTAL));
		put_octal(header.minor, sizeof(header.minor), up_to(minor(status->st_rdev), ID_MAX_OCTAL));
	}
	emit_header(&header);
}

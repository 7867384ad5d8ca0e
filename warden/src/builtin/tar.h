/* The format of a tar (POSIX.1-2001, "pax"), its writing and its reading. */
#ifndef TAR_H
#define TAR_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#define TAR_BLOCK ((size_t)512)

struct tar_header {
	char name[100];
	char mode[8];
	char uid[8];
	char gid[8];
	char size[12];
	char mtime[12];
	char checksum[8];
	char type;
	char link[100];
	char magic[8]; /* "ustar", NUL, "00" */
	char owner[32];
	char group[32];
	char major[8];
	char minor[8];
	char prefix[155];
	char unused[12];
};

_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is one block");

/* Types of members. */
enum {
	TAR_FILE = '0',
	TAR_HARD_LINK = '1',
	TAR_LINK = '2',
	TAR_CHARACTER_DEVICE = '3',
	TAR_BLOCK_DEVICE = '4',
	TAR_DIRECTORY = '5',
	TAR_FIFO = '6',
};

struct tar_member {
	char path[PATH_MAX];
	char link[PATH_MAX];
	int type;      /* one of the above; 0 is the end of the archive */
	uint64_t size; /* of the content that follows; 0 for all but files */
	mode_t mode;
	struct timespec modified;
};

/* Longer than any path that a single call takes. */
#define TAR_NAME_MAX 16384

/* The sum of the bytes of a header, its own field taken as spaces. */
uint32_t tar_checksum(const struct tar_header *header);

/* How many bytes fill up the last block of something. */
size_t tar_padding(uint64_t size);

/* Writes all of a member but its content to standard output; for a file that is as much as its status says. */
void tar_emit(const char *name, const char *link, char type, const struct stat *status);

/* Reads the next member from standard input, up to its content. EBADMSG for what is no tar, or not a whole one;
 * ENOTSUP for a member of a kind that can't be unpacked. `type` is 0 at the end, up to which standard input is
 * read then. */
int tar_next(struct tar_member *member);

/* Reads what there is of `size` bytes of content, 1 at least. EBADMSG when it ends before. */
int tar_content(const void **data, size_t *got, uint64_t size);
int tar_read(void *buffer, size_t size);
int tar_skip(uint64_t size);

#endif

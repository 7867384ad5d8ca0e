/* Checks the codec with vectors.txt, whose head tells its format: `vectors FILE`. What the manager says is given
 * to the code that acts on it, which must take every field as the vector has it, and end the tunnel when a byte is
 * missing or too many. What the warden says is written from the fields, by the code that says it where that can be
 * had, and must be the same bytes. */
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

extern char **environ;

uint8_t scratch[1 << 17];

static int line_number, failures;

void fail(const struct vector *vector, const char *what)
{
	printf("vectors.txt:%d: %s: %s\n", line_number, vector->name, what);
	failures++;
}

void check(const struct vector *vector, bool holds, const char *what)
{
	if (!holds)
		fail(vector, what);
}

/* The fields of a vector. */

static const char *field(const struct vector *vector, const char *key)
{
	size_t length = strlen(key);

	for (const char *at = vector->fields; at; at = strchr(at, ' ')) {
		at += *at == ' ';
		if (strncmp(at, key, length) == 0 && at[length] == '=')
			return at + length + 1;
	}
	errx(2, "line %d has no field %s", line_number, key);
}

uint64_t number(const struct vector *vector, const char *key)
{
	const char *text = field(vector, key);

	return *text == '-' ? (uint64_t)strtoll(text, NULL, 10) : strtoull(text, NULL, 10);
}

static size_t from_hex(const char *hex, uint8_t *bytes, size_t size)
{
	size_t length = 0;

	for (unsigned int byte; sscanf(hex, "%2x", &byte) == 1 && hex[0] != ' '; hex += 2) {
		if (length == size)
			errx(2, "line %d is too long", line_number);
		bytes[length++] = (uint8_t)byte;
	}
	return length;
}

size_t bytes(const struct vector *vector, const char *key)
{
	return from_hex(field(vector, key), scratch, sizeof scratch - 1);
}

static void check_header(const struct vector *vector)
{
	struct in in = in_of(vector->frame, vector->length);

	check(vector, in_u32(&in) == vector->length - FRAME_HEADER, "length");
	in_u8(&in);
	check(vector, in_u32(&in) == vector->stream, "stream");
}

static void check_line(char *line)
{
	static struct vector vector;
	char *rest = line, *direction;

	vector.name = strsep(&rest, "\t");
	direction = strsep(&rest, "\t");
	vector.fields = strsep(&rest, "\t");
	if (!rest || !direction || !strchr("<>", *direction))
		errx(2, "line %d isn't four fields with tabs between them", line_number);
	vector.stream = (uint32_t)number(&vector, "stream");
	vector.length = from_hex(rest, vector.frame, sizeof vector.frame - 1);
	check_header(&vector);
	if (*direction == '>')
		check_request(&vector);
	else
		check_answer(&vector);
}

int main(int argc, char **argv)
{
	FILE *file = fopen(argc > 1 ? argv[1] : "vectors.txt", "r");
	static char *none[] = { NULL };
	struct tunnel *tunnel = new_tunnel();
	static char long_id[MAX_ID + 1];
	char *line = NULL;
	size_t size = 0;
	int checked = 0;

	if (!file)
		err(2, "vectors.txt");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	environ = none;
	loop_open();
	/* The processes that vectors name. */
	memset(long_id, 'x', MAX_ID);
	spawn(tunnel, 1, "a");
	spawn(tunnel, 2, long_id);
	for (ssize_t length; (length = getline(&line, &size, file)) > 0;) {
		line_number++;
		line[strcspn(line, "\n")] = '\0';
		if (*line == '\0' || *line == '#')
			continue;
		check_line(line);
		checked++;
	}
	free(line);
	fclose(file);
	free_tunnel(tunnel);
	printf("%d vectors, %d failures\n", checked, failures);
	return failures || checked == 0 ? 1 : 0;
}

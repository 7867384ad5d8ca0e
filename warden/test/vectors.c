/* Checks the codec with vectors.txt, whose head tells its format: `vectors FILE`. What the manager says is given
 * to the code that acts on it, which must take every field as the vector has it, and end the tunnel when a byte is
 * missing or too many. What the warden says is written from the fields, by the code that says it where that can be
 * had, and must be the same bytes. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../src/builtin/builtin.h"
#include "../src/init.h"
#include "../src/mark.h"
#include "../src/record.h"
#include "../src/tunnel.h"
#include "../src/usage.h"

struct vector {
	const char *name, *fields;
	char direction;
	uint32_t stream;
	uint8_t frame[1 << 17];
	size_t length;
};

extern char **environ;
unsigned char boot_id[BOOT_ID_BYTES];

static int line_number, failures;
/* What the code under test has passed on. */
static struct {
	uint64_t version;
	int64_t lease_ms, idle_ms;
	bool has_blob;
	char blob[256];
	uint32_t blob_length;
	uint16_t rows, columns;
	int signal;
} passed;

/* What is not under test, and notes what it is asked for. */

void init_end(int code)
{
	(void)code;
}

static int no_operation(int argc, char **argv)
{
	(void)argv;
	return argc;
}

builtin_run *builtin_find(const char *name)
{
	(void)name;
	return no_operation;
}

int record_set(uint64_t version, int64_t lease_ms, int64_t idle_ms, const struct text *blob)
{
	passed.version = version;
	passed.lease_ms = lease_ms;
	passed.idle_ms = idle_ms;
	passed.has_blob = blob != NULL;
	passed.blob_length = blob ? blob->length : 0;
	if (blob && blob->length <= sizeof passed.blob)
		memcpy(passed.blob, blob->at, blob->length);
	return 0;
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
	(void)mark;
	passed.signal = signal;
	return 0;
}

bool mark_left(gid_t mark, bool (*is_main)(pid_t pid))
{
	(void)mark;
	(void)is_main;
	return false;
}

void spawn_resize(struct process *process, uint16_t rows, uint16_t columns)
{
	(void)process;
	passed.rows = rows;
	passed.columns = columns;
}

/* A process that does nothing, and may be killed; its input is a pipe that nobody reads. */
int spawn_start(struct process *process, const struct spawn_request *request, enum stage *stage)
{
	int input[2];

	(void)request;
	*stage = STAGE_MAKE;
	if (pipe2(input, O_CLOEXEC | O_NONBLOCK) < 0)
		return errno;
	process->pid = fork();
	if (process->pid == 0) {
		/* Not longer than this program. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	input_open(process, input[1]);
	return 0;
}

static void fail(const struct vector *vector, const char *what)
{
	printf("vectors.txt:%d: %s: %s\n", line_number, vector->name, what);
	failures++;
}

static void check(const struct vector *vector, bool holds, const char *what)
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

static uint64_t number(const struct vector *vector, const char *key)
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

static uint8_t scratch[1 << 17];

static size_t bytes(const struct vector *vector, const char *key)
{
	return from_hex(field(vector, key), scratch, sizeof scratch - 1);
}

static bool is_text(const struct vector *vector, const char *key, const char *text)
{
	size_t length = bytes(vector, key);

	return strlen(text) == length && memcmp(text, scratch, length) == 0;
}

static bool is_list(const struct vector *vector, const char *key, char *const *list)
{
	uint64_t count = number(vector, key);
	char item[64];

	for (uint64_t i = 0; i < count; i++) {
		snprintf(item, sizeof item, "%s%" PRIu64, key, i);
		if (!list[i] || !is_text(vector, item, list[i]))
			return false;
	}
	return true;
}

static void put_text(const struct vector *vector, struct out *out, const char *key)
{
	size_t length = bytes(vector, key);

	out_text(out, (const char *)scratch, length);
}

static void put_list(const struct vector *vector, struct out *out, const char *key)
{
	uint64_t count = number(vector, key);
	char item[64];

	out_u32(out, (uint32_t)count);
	for (uint64_t i = 0; i < count; i++) {
		snprintf(item, sizeof item, "%s%" PRIu64, key, i);
		put_text(vector, out, item);
	}
}

/* From the manager. */

static struct tunnel *new_tunnel(void)
{
	struct tunnel *tunnel = calloc(1, sizeof *tunnel);

	tunnel->in.fd = tunnel->out.fd = tunnel->keeper.fd = -1;
	return tunnel;
}

static void free_tunnel(struct tunnel *tunnel)
{
	process_drop_waiters(tunnel);
	while (tunnel->readers)
		tunnel_remove_reader(tunnel->readers);
	out_free(&tunnel->control);
	out_free(&tunnel->parts);
	free(tunnel);
}

static void act(struct tunnel *tunnel, const struct vector *vector, size_t length)
{
	request_handle(tunnel, vector->frame[4], vector->stream, vector->frame + FRAME_HEADER, length - FRAME_HEADER);
}

static void give(struct tunnel *tunnel, uint8_t type, uint32_t stream, struct out *payload)
{
	request_handle(tunnel, type, stream, payload->data, payload->length);
	out_free(payload);
}

static void spawn(struct tunnel *tunnel, uint32_t stream, const char *id)
{
	struct out payload = { 0 };

	out_u32(&payload, SPAWN_STDIN);
	for (int i = 0; i < 2; i++)
		out_u32(&payload, 1000);
	for (int i = 0; i < 3; i++)
		out_u32(&payload, 0);
	out_u64(&payload, NO_LIMIT);
	out_u32(&payload, 0);
	out_text(&payload, id, strlen(id));
	out_text(&payload, "/", 1);
	out_u32(&payload, 1);
	out_text(&payload, "true", 4);
	out_u32(&payload, 0);
	out_u32(&payload, 0);
	give(tunnel, F_SPAWN, stream, &payload);
}

/* Nothing of the vectors before is under way. */
static void stop_kill(struct process *process, void *context)
{
	(void)context;
	timer_stop(&process->kill);
	process->ending = false;
}

static void forget_kills(void)
{
	process_each(stop_kill, NULL);
}

static bool acts_on_open_stream(const struct vector *vector)
{
	return vector->frame[4] >= F_ACK && vector->frame[4] <= F_DETACH;
}

/* A stream on which whatever a vector says can be said. */
static void open_stream(struct tunnel *tunnel, const struct vector *vector)
{
	struct process *process;

	spawn(tunnel, vector->stream, "vector");
	process = process_find((struct text){ "vector", 6 });
	tunnel->readers->sent_seq = UINT64_MAX;
	process->input.ends = false;
	process->input.length = 0;
	process->input.start = 0;
	process->input.confirmed = process->input.told = 0;
	if (vector->frame[4] == F_STDIN || vector->frame[4] == F_STDIN_END) {
		process->input.confirmed = number(vector, "offset") == APPENDED ? 0 : number(vector, "offset");
		process->input.told = process->input.confirmed;
	}
}

static bool refuses(const struct vector *vector, size_t length)
{
	struct tunnel *tunnel = new_tunnel();
	bool refused;

	if (acts_on_open_stream(vector))
		open_stream(tunnel, vector);
	act(tunnel, vector, length);
	refused = tunnel->ends;
	free_tunnel(tunnel);
	return refused;
}

static void check_spawn(const struct vector *vector)
{
	struct spawn_request request;
	struct in in = in_of(vector->frame + FRAME_HEADER, vector->length - FRAME_HEADER);
	static const char *const names[] = { "flags", "uid", "gid", "timeout", "grace", "window" };
	uint64_t count = number(vector, "argv");

	if (!request_parse_spawn(in, &request)) {
		fail(vector, "is refused");
		return;
	}
	const uint32_t numbers[] = { request.flags,	 request.uid,	   request.gid,
				     request.timeout_ms, request.grace_ms, request.window };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		check(vector, numbers[i] == number(vector, names[i]), names[i]);
	check(vector, request.limit == number(vector, "limit"), "limit");
	check(vector, request.rows == number(vector, "rows"), "rows");
	check(vector, request.columns == number(vector, "columns"), "columns");
	check(vector, is_text(vector, "id", request.id), "id");
	check(vector, is_text(vector, "cwd", request.cwd), "cwd");
	check(vector, is_list(vector, "argv", request.argv) && request.argv[count] == NULL, "argv");
	check(vector, is_list(vector, "env", request.env), "env");
	check(vector, request.limit_count == number(vector, "limits"), "limits");
	if (request.limit_count > 0) {
		check(vector, request.limits[0].resource == number(vector, "resource0"), "resource");
		check(vector, request.limits[0].value.rlim_cur == number(vector, "soft0"), "soft limit");
		check(vector, request.limits[0].value.rlim_max == number(vector, "hard0"), "hard limit");
	}
	free(request.memory);
}

/* What the code under test has made of it, where that shows. */
static void check_effect(const struct vector *vector, const struct tunnel *tunnel)
{
	const struct reader *reader = tunnel->readers;

	switch (vector->frame[4]) {
	case F_PART:
		check(vector, tunnel->parts.length == bytes(vector, "data"), "length of the part");
		check(vector, memcmp(tunnel->parts.data ? tunnel->parts.data : scratch, scratch, tunnel->parts.length) == 0,
		      "the part");
		break;
	case F_PING:
		check(vector, memcmp(tunnel->control.data + FRAME_HEADER, vector->frame + FRAME_HEADER, 8) == 0, "token");
		break;
	case F_ATTACH:
		check(vector, reader && reader->window == number(vector, "window"), "window");
		break;
	case F_ACK:
		check(vector, reader->acked_seq == number(vector, "seq"), "seq");
		break;
	case F_STDIN:
		if (number(vector, "offset") == APPENDED)
			check(vector, reader->appended == bytes(vector, "data"), "appended data");
		else
			check(vector, reader->process->input.confirmed == number(vector, "offset") + bytes(vector, "data"), "data");
		break;
	case F_STDIN_END:
		check(vector, reader->process->input.closed, "end of the input");
		break;
	case F_RESIZE:
		check(vector, passed.rows == number(vector, "rows") && passed.columns == number(vector, "columns"), "size");
		break;
	case F_DETACH:
		check(vector, reader == NULL, "the stream is open");
		break;
	case F_SIGNAL:
		check(vector, !number(vector, "tree") || (uint64_t)passed.signal == number(vector, "signal"), "signal");
		break;
	case F_KILL:
		check(vector, (uint64_t)passed.signal == number(vector, "signal"), "signal");
		break;
	case F_RECORD_SET:
		check(vector, passed.version == number(vector, "version"), "version");
		check(vector, passed.lease_ms == (int64_t)number(vector, "lease"), "lease");
		check(vector, passed.idle_ms == (int64_t)number(vector, "idle"), "idle timeout");
		check(vector, passed.has_blob == number(vector, "has_blob"), "whether there is a blob");
		check(vector, !passed.has_blob || (passed.blob_length == bytes(vector, "blob") &&
						    memcmp(passed.blob, scratch, passed.blob_length) == 0), "blob");
		break;
	default:
		break;
	}
}

/* Whether the answer is that there is no such process. */
static bool says_missing(const struct tunnel *tunnel)
{
	struct in in = in_of(tunnel->control.data, tunnel->control.length);
	uint32_t length = in_u32(&in), type = in_u8(&in), stream = in_u32(&in);

	(void)length;
	(void)stream;
	return type == F_ERROR && in_u32(&in) == ENOENT;
}

static void check_request(struct vector *vector)
{
	struct tunnel *tunnel = new_tunnel();
	uint8_t type = vector->frame[4];
	bool is_open_ended = type == F_PART || type == F_STDIN;

	if (type == F_SPAWN)
		check_spawn(vector);
	if (acts_on_open_stream(vector))
		open_stream(tunnel, vector);
	passed.signal = 0;
	forget_kills();
	act(tunnel, vector, vector->length);
	if (tunnel->ends)
		fail(vector, "is refused");
	else
		check_effect(vector, tunnel);
	if (type == F_ATTACH || type == F_SIGNAL || type == F_KILL || type == F_FORGET || type == F_WAIT)
		check(vector, !says_missing(tunnel), "its id");
	free_tunnel(tunnel);
	vector->frame[vector->length] = 0;
	check(vector, is_open_ended || refuses(vector, vector->length + 1), "is taken with a byte too many");
	if (vector->length > FRAME_HEADER && !is_open_ended)
		check(vector, refuses(vector, vector->length - 1), "is taken with a byte too few");
}

/* From the warden. */

static void put_exit(const struct vector *vector, struct out *out)
{
	struct process process = { 0 };
	int64_t code = (int64_t)number(vector, "code");

	process.ring.last_seq = number(vector, "last");
	process.outcome = (enum outcome)number(vector, "outcome");
	process.left = number(vector, "left") != 0;
	process.status = code >= 0 ? (int)code << 8 : (int)number(vector, "signal");
	process.reaped_us = (int64_t)number(vector, "duration");
	process.usage.ru_utime = (struct timeval){ (time_t)(number(vector, "user") / 1000000),
						   (suseconds_t)(number(vector, "user") % 1000000) };
	process.usage.ru_stime = (struct timeval){ (time_t)(number(vector, "system") / 1000000),
						   (suseconds_t)(number(vector, "system") % 1000000) };
	process.output[0].total = number(vector, "stdout");
	process.output[1].total = number(vector, "stderr");
	process_put_exit(&process, out, vector->stream);
	/* The kernel counts in KiB, which not every vector does. */
	for (int i = 0; i < 8; i++)
		out->data[FRAME_HEADER + 42 + i] = (uint8_t)(number(vector, "rss") >> (8 * i));
}

/* Each as its own code says it. Returns whether it could be said so. */
static bool put_by_its_code(const struct vector *vector, struct tunnel *tunnel)
{
	struct out *out = &tunnel->control;

	if (strcmp(vector->name, "pong") == 0) {
		struct out payload = { 0 };

		out_u64(&payload, number(vector, "token"));
		give(tunnel, F_PING, 0, &payload);
	} else if (strcmp(vector->name, "fault") == 0) {
		scratch[bytes(vector, "text")] = '\0';
		tunnel_fault(tunnel, (const char *)scratch);
	} else if (strcmp(vector->name, "done") == 0) {
		tunnel_put_done(tunnel, vector->stream);
	} else if (strcmp(vector->name, "error") == 0) {
		scratch[bytes(vector, "text")] = '\0';
		tunnel_put_error(tunnel, vector->stream, (int)(uint32_t)number(vector, "errno"),
				 (enum stage)number(vector, "stage"), (const char *)scratch);
	} else if (strcmp(vector->name, "stdin_ack") == 0) {
		struct process process = { .input = { .confirmed = number(vector, "offset"),
						      .closed = number(vector, "closed") != 0 } };
		struct reader reader = { .process = &process, .tunnel = tunnel, .stream = vector->stream, .told = true };

		tunnel_put_stdin_ack(&reader);
	} else if (strcmp(vector->name, "exit") == 0) {
		put_exit(vector, out);
	} else {
		return false;
	}
	return true;
}

/* The others, from their fields: their code needs what only a sandbox has. Types in order of the payload: 1, 2, 4
 * and 8 are integers of that many bytes, t text, l a list, b bytes that end the frame. */
static void put_by_layout(const struct vector *vector, struct out *out)
{
	static const struct {
		const char *name;
		enum frame_type type;
		const char *layout;
	} layouts[] = {
		{ "started", F_STARTED, "1existing 4pid 8first 8last 8stdin 8start" },
		{ "output", F_OUTPUT, "8seq 1of bdata" },
		{ "lost", F_LOST, "8first 8last" },
		{ "listed", F_LISTED,
		  "tid 4pid 1outcome 4flags 4code 4signal 8start 8first 8last 4readers largv" },
		{ "usage_is", F_USAGE_IS, "8memory 8limit 8cpu 8processes 8received 8sent 8oom_kills" },
		{ "record_is", F_RECORD_IS, "8version 8lease 8idle tblob" },
		{ "hello", F_GREETING, "2version bboot tbuild" },
	};
	char key[32];
	int taken;

	for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
		const char *at = layouts[i].layout;
		size_t frame;

		if (strcmp(layouts[i].name, vector->name) != 0)
			continue;
		frame = frame_begin(out, layouts[i].type, vector->stream);
		if (layouts[i].type == F_GREETING)
			out_u32(out, HELLO_MAGIC);
		for (char kind; sscanf(at, " %c%31s%n", &kind, key, &taken) == 2; at += taken) {
			if (kind == 't')
				put_text(vector, out, key);
			else if (kind == 'l')
				put_list(vector, out, key);
			else if (kind == 'b')
				out_bytes(out, scratch, bytes(vector, key));
			else if (kind == '1')
				out_u8(out, (uint8_t)number(vector, key));
			else if (kind == '2')
				out_u16(out, (uint16_t)number(vector, key));
			else if (kind == '4')
				out_u32(out, (uint32_t)number(vector, key));
			else
				out_u64(out, number(vector, key));
		}
		frame_end(out, frame);
		return;
	}
	fail(vector, "is no frame that is known");
}

static void check_answer(const struct vector *vector)
{
	struct tunnel *tunnel = new_tunnel();
	const struct out *out = &tunnel->control;

	if (!put_by_its_code(vector, tunnel))
		put_by_layout(vector, &tunnel->control);
	check(vector, out->length == vector->length && memcmp(out->data, vector->frame, out->length) == 0,
	      "is said in other bytes");
	free_tunnel(tunnel);
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

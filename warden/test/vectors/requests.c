/* What managers say: given to the code that acts on it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../../src/mark.h"
#include "../stand_ins.h"
#include "vectors.h"

bool mark_left(gid_t mark, bool (*is_main)(pid_t pid))
{
	(void)mark;
	(void)is_main;
	return false;
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

struct tunnel *new_tunnel(void)
{
	struct tunnel *tunnel = calloc(1, sizeof *tunnel);

	tunnel->in.fd = tunnel->out.fd = tunnel->keeper.fd = -1;
	return tunnel;
}

void free_tunnel(struct tunnel *tunnel)
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

void give(struct tunnel *tunnel, uint8_t type, uint32_t stream, struct out *payload)
{
	request_handle(tunnel, type, stream, payload->data, payload->length);
	out_free(payload);
}

void spawn(struct tunnel *tunnel, uint32_t stream, const char *id)
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

static void check_record_set(const struct vector *vector, const struct record_change *change)
{
	check(vector, change->version == number(vector, "version"), "version");
	check(vector, change->lease_ms == (int64_t)number(vector, "lease"), "lease");
	check(vector, change->idle_ms == (int64_t)number(vector, "idle"), "idle timeout");
	check(vector, change->ttl_ms == (int64_t)number(vector, "ttl"), "what is granted anew");
	check(vector, change->on_expiry == number(vector, "on_expiry"), "what its end does");
	check(vector, change->last_ms == (int64_t)number(vector, "last"), "longest lifetime");
	check(vector, change->has_blob == number(vector, "has_blob"), "whether there is a blob");
	check(vector, change->blob.length == bytes(vector, "blob") &&
			      memcmp(asked.blob, scratch, change->blob.length) == 0, "blob");
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
		check(vector, asked.rows == number(vector, "rows") && asked.columns == number(vector, "columns"), "size");
		break;
	case F_DETACH:
		check(vector, reader == NULL, "the stream is open");
		break;
	case F_SIGNAL:
		check(vector, !number(vector, "tree") || (uint64_t)asked.signal == number(vector, "signal"), "signal");
		break;
	case F_KILL:
		check(vector, (uint64_t)asked.signal == number(vector, "signal"), "signal");
		break;
	case F_RECORD_SET:
		check_record_set(vector, &asked.change);
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

void check_request(struct vector *vector)
{
	struct tunnel *tunnel = new_tunnel();
	uint8_t type = vector->frame[4];
	bool is_open_ended = type == F_PART || type == F_STDIN;

	if (type == F_SPAWN)
		check_spawn(vector);
	if (acts_on_open_stream(vector))
		open_stream(tunnel, vector);
	asked.signal = 0;
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

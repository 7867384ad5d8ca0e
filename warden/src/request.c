/* What managers ask for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "builtin/builtin.h"
#include "disk.h"
#include "history.h"
#include "process.h"
#include "record.h"
#include "tunnel.h"
#include "usage.h"

/* How long the news that a process has started may wait for that of its end. */
#define TELL_MS 5
#define BAD_PAYLOAD "a payload isn't what its type says"

static bool reads_input(const struct process *process)
{
	return (process->flags & (SPAWN_STDIN | SPAWN_TTY)) != 0;
}

static void on_tell(struct timer *timer)
{
	tunnel_put_started(CONTAINER_OF(timer, struct reader, tell));
}

static struct reader *new_reader(struct tunnel *tunnel, uint32_t stream, uint32_t window)
{
	struct reader *reader = must(calloc(1, sizeof *reader));

	reader->tunnel = tunnel;
	reader->stream = stream;
	reader->window = window;
	reader->tell.fire = on_tell;
	reader->next_of_tunnel = tunnel->readers;
	tunnel->readers = reader;
	return reader;
}

static void attach(struct reader *reader, struct process *process, uint64_t after)
{
	reader->existing = true;
	process_attach(process, reader, after);
	tunnel_put_started(reader);
	tunnel_queue(reader);
	/* What was said of its input before may have been lost with a tunnel. */
	if (reads_input(process) && (process->input.confirmed > 0 || process->input.closed))
		tunnel_put_stdin_ack(reader);
}

/* What is to be forgotten is mostly over in a moment, and then told in one write. */
static void attach_new(struct reader *reader, struct process *process)
{
	process_attach(process, reader, 0);
	if (process->flags & SPAWN_FORGET)
		timer_set(&reader->tell, TELL_MS);
	else
		tunnel_put_started(reader);
}

/* Returns why it can't be started, and the errno of that, or NULL. */
static const char *refusal_of(const struct spawn_request *request, int *error)
{
	*error = EINVAL;
	if ((request->flags & SPAWN_BUILTIN) && builtin_find(request->argv[0]) == NULL)
		return "there is no such built-in operation";
	if ((request->flags & SPAWN_BUILTIN) && (request->flags & SPAWN_TTY))
		return "a built-in operation has no terminal";
	*error = EDQUOT;
	if (request->flags & SPAWN_BUILTIN ? disk_is_full() && builtin_writes(request->argv[0]) : disk_is_closed())
		return "the disk of the sandbox is full";
	*error = 0;
	return NULL;
}

static void handle_spawn(struct tunnel *tunnel, uint32_t stream, struct in in)
{
	struct spawn_request request;
	struct process *process;
	enum stage stage = STAGE_REQUEST;
	const char *problem;
	bool existing;
	int error = 0;

	if (!request_parse_spawn(in, &request)) {
		tunnel_fault(tunnel, BAD_PAYLOAD);
		return;
	}
	record_note_activity();
	process = process_find((struct text){ request.id, (uint32_t)strlen(request.id) });
	existing = process != NULL;
	problem = existing ? NULL : refusal_of(&request, &error);
	if (!existing && !problem)
		error = process_spawn(&request, &process, &stage);
	if (error) {
		tunnel_put_error(tunnel, stream, error, stage, problem ? problem : strerror(error));
	} else if (existing) {
		attach(new_reader(tunnel, stream, request.window), process, 0);
	} else {
		attach_new(new_reader(tunnel, stream, request.window), process);
	}
	free(request.memory);
}

static struct process *find(struct tunnel *tunnel, uint32_t stream, struct text id)
{
	struct process *process = process_find(id);

	if (process == NULL)
		tunnel_put_error(tunnel, stream, ENOENT, STAGE_REQUEST, "there is no such process");
	return process;
}

static void put_result(struct tunnel *tunnel, uint32_t stream, int error)
{
	if (error)
		tunnel_put_error(tunnel, stream, error, STAGE_REQUEST, strerror(error));
	else
		tunnel_put_done(tunnel, stream);
}

static void handle_attach(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	uint64_t after = in_u64(in);
	uint32_t window = in_u32(in);
	struct text id = in_text(in);
	struct process *process = in_done(in) ? find(tunnel, stream, id) : NULL;

	if (process == NULL)
		return;
	record_note_activity();
	attach(new_reader(tunnel, stream, window), process, after);
}

static void handle_signal(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	uint32_t number = in_u32(in);
	bool tree = in_u8(in) != 0;
	struct text id = in_text(in);
	struct process *process = in_done(in) ? find(tunnel, stream, id) : NULL;

	if (process == NULL)
		return;
	record_note_activity();
	put_result(tunnel, stream, process_signal(process, (int)number, tree));
}

static void handle_kill(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	uint32_t number = in_u32(in);
	uint32_t grace_ms = in_u32(in);
	struct text id = in_text(in);
	struct process *process = in_done(in) ? find(tunnel, stream, id) : NULL;

	if (process == NULL)
		return;
	if (number == 0 || number >= 64) {
		put_result(tunnel, stream, EINVAL);
		return;
	}
	record_note_activity();
	process_kill(process, (int)number, grace_ms, KILLED);
	process_wait(process, tunnel, stream, true);
}

static void handle_wait(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	struct text id = in_text(in);
	struct process *process = in_done(in) ? find(tunnel, stream, id) : NULL;

	if (process)
		process_wait(process, tunnel, stream, false);
}

static void handle_forget(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	struct text id = in_text(in);
	struct process *process = in_done(in) ? find(tunnel, stream, id) : NULL;

	if (process)
		put_result(tunnel, stream, process_forget(process));
}

struct listing {
	struct tunnel *tunnel;
	uint32_t stream;
};

static void put_listed(struct process *process, void *context)
{
	const struct listing *listing = context;
	struct out *out = tunnel_answer(listing->tunnel);
	size_t frame = frame_begin(out, F_LISTED, listing->stream);
	bool exited = process->reaped && WIFEXITED(process->status);
	uint32_t readers = 0;

	for (const struct reader *reader = process->readers; reader; reader = reader->next)
		readers++;
	out_text(out, process->id, strlen(process->id));
	out_u32(out, process->reaped ? 0 : (uint32_t)process->pid);
	out_u8(out, (uint8_t)process_outcome(process));
	out_u32(out, process->flags);
	out_u32(out, exited ? (uint32_t)WEXITSTATUS(process->status) : UINT32_MAX);
	out_u32(out, process->reaped && WIFSIGNALED(process->status) ? (uint32_t)WTERMSIG(process->status) : 0);
	out_u64(out, (uint64_t)process->started_wall_ms);
	out_u64(out, ring_first_seq(&process->ring));
	out_u64(out, process->ring.last_seq);
	out_u32(out, readers);
	out_bytes(out, process->argv.data, process->argv.length);
	frame_end(out, frame);
}

static void handle_list(struct tunnel *tunnel, uint32_t stream)
{
	struct listing listing = { tunnel, stream };

	process_each(put_listed, &listing);
	tunnel_put_done(tunnel, stream);
}

static void handle_record_set(struct tunnel *tunnel, uint32_t stream, struct in *in)
{
	struct record_change change = { .version = in_u64(in) };
	uint8_t has_blob;
	int error;

	change.lease_ms = (int64_t)in_u64(in);
	change.idle_ms = (int64_t)in_u64(in);
	change.ttl_ms = (int64_t)in_u64(in);
	change.on_expiry = in_u8(in);
	change.last_ms = (int64_t)in_u64(in);
	has_blob = in_u8(in);
	change.has_blob = has_blob != 0;
	change.blob = in_text(in);
	if (!in_done(in))
		return;
	error = has_blob > 1 ? EINVAL : record_set(&change);
	if (error)
		put_result(tunnel, stream, error);
	else
		record_put(tunnel_answer(tunnel), stream);
}

static void handle_stdin(struct tunnel *tunnel, struct reader *reader, struct in *in)
{
	uint64_t offset = in_u64(in);
	uint32_t length = (uint32_t)in_left(in);

	if (in->bad || length == 0 || length > MAX_DATA)
		in->bad = true;
	else if (!input_take(reader, offset, in->at, length))
		tunnel_fault(tunnel, "input beyond what was asked for");
	in->at = in->end;
	record_note_activity();
}

/* Acts on what concerns a stream that is open. Returns whether its payload is as it should be. */
static bool handle_on_stream(struct tunnel *tunnel, uint8_t type, struct reader *reader, struct in *in)
{
	if (type == F_ACK) {
		uint64_t seq = in_u64(in);

		record_note_activity();
		if (!in->bad && !process_acknowledge(reader, seq))
			tunnel_fault(tunnel, "output was acknowledged that wasn't sent");
	} else if (type == F_STDIN) {
		handle_stdin(tunnel, reader, in);
	} else if (type == F_STDIN_END) {
		uint64_t offset = in_u64(in);

		if (!in->bad && !input_end(reader, offset))
			tunnel_fault(tunnel, "input ends beyond what was sent");
	} else if (type == F_RESIZE) {
		uint16_t rows = in_u16(in);

		spawn_resize(reader->process, rows, in_u16(in));
	} else {
		bool empty = in_done(in);

		tunnel_remove_reader(reader);
		return empty;
	}
	return in_done(in);
}

/* Acts on a request. Returns whether there is such a type, and its payload is as it should be. */
static bool dispatch(struct tunnel *tunnel, uint8_t type, uint32_t stream, struct in *in)
{
	struct out *out;
	size_t frame;

	switch (type) {
	case F_HELLO:
		return in_u16(in) == PROTOCOL_VERSION && in_done(in);
	case F_PING:
		out = tunnel_answer(tunnel);
		frame = frame_begin(out, F_PONG, stream);
		out_u64(out, in_u64(in));
		frame_end(out, frame);
		break;
	case F_ATTACH:
		handle_attach(tunnel, stream, in);
		break;
	case F_SIGNAL:
		handle_signal(tunnel, stream, in);
		break;
	case F_KILL:
		handle_kill(tunnel, stream, in);
		break;
	case F_LIST:
		handle_list(tunnel, stream);
		break;
	case F_FORGET:
		handle_forget(tunnel, stream, in);
		break;
	case F_USAGE:
		usage_put(tunnel_answer(tunnel), stream);
		break;
	case F_USAGE_HISTORY:
		history_put(tunnel, stream);
		break;
	case F_RECORD_GET:
		record_put(tunnel_answer(tunnel), stream);
		break;
	case F_RECORD_SET:
		handle_record_set(tunnel, stream, in);
		break;
	case F_WAIT:
		handle_wait(tunnel, stream, in);
		break;
	default:
		return false;
	}
	return in_done(in);
}

static bool take_part(struct tunnel *tunnel, uint32_t stream, const uint8_t *payload, size_t length)
{
	if (tunnel->parts.length > 0 && tunnel->parts_stream != stream)
		return false;
	if (tunnel->parts.length + length > MAX_REQUEST)
		return false;
	tunnel->parts_stream = stream;
	out_bytes(&tunnel->parts, payload, length);
	return true;
}

static bool is_of_stream(uint8_t type)
{
	return type >= F_ACK && type <= F_DETACH;
}

void request_handle(struct tunnel *tunnel, uint8_t type, uint32_t stream, const uint8_t *payload, size_t length)
{
	struct in in = in_of(payload, length);
	struct reader *reader = tunnel_reader(tunnel, stream);
	bool good;

	if (type == F_PART) {
		if (!take_part(tunnel, stream, payload, length))
			tunnel_fault(tunnel, "a request is too long, or another came between its parts");
		return;
	}
	if (tunnel->parts.length > 0) {
		if (!take_part(tunnel, stream, payload, length)) {
			tunnel_fault(tunnel, "a request is too long, or another came between its parts");
			return;
		}
		in = in_of(tunnel->parts.data, tunnel->parts.length);
	}
	if (is_of_stream(type))
		good = reader == NULL || handle_on_stream(tunnel, type, reader, &in);
	else if (reader != NULL || (stream == 0) != (type == F_HELLO || type == F_PING))
		good = false;
	else if (type == F_SPAWN)
		handle_spawn(tunnel, stream, in), good = true;
	else
		good = dispatch(tunnel, type, stream, &in);
	if (!good)
		tunnel_fault(tunnel, BAD_PAYLOAD);
	if (tunnel->parts.length > 0)
		out_free(&tunnel->parts);
}

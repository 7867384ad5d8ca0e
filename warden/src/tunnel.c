#define _GNU_SOURCE
#include "tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "init.h"

#define SILENCE_MS 60000
/* For the descriptors to come once somebody has connected. */
#define GREETING_MS 5000
#define RECEIVE_BYTES (256u << 10)
#define TUNNEL_PIPE (1 << 20)
/* How much is put together for one write: enough to make small frames cheap, little enough for an answer to
 * overtake. */
#define SENDING_BYTES (128u << 10)
#define WRITES_AT_ONCE 16
/* A manager that doesn't read its answers isn't asked for more requests. */
#define CONTROL_MAX (1u << 20)

static struct tunnel *tunnels;
static int tunnel_count;

static void receive(struct watch *watch, uint32_t events);

static void close_watch(struct watch *watch)
{
	watch_stop(watch);
	if (watch->fd >= 0)
		close(watch->fd);
	watch->fd = -1;
}

/* Takes everything from it at once; its memory goes when no caller has it on the stack any more. */
void tunnel_close(struct tunnel *tunnel)
{
	if (tunnel->closed)
		return;
	tunnel->closed = tunnel->dirty = true;
	timer_stop(&tunnel->silence);
	close_watch(&tunnel->in);
	close_watch(&tunnel->out);
	close_watch(&tunnel->keeper);
	process_drop_waiters(tunnel);
	tunnel->queue_first = tunnel->queue_last = NULL;
	while (tunnel->readers) {
		struct reader *reader = tunnel->readers;

		tunnel->readers = reader->next_of_tunnel;
		timer_stop(&reader->tell);
		process_detach(reader);
		free(reader);
	}
}

static void tunnel_free(struct tunnel *tunnel)
{
	struct tunnel **link = &tunnels;

	while (*link != tunnel)
		link = &(*link)->next;
	*link = tunnel->next;
	tunnel_count--;
	free(tunnel->received);
	out_free(&tunnel->parts);
	out_free(&tunnel->control);
	out_free(&tunnel->sending);
	free(tunnel);
}

struct out *tunnel_answer(struct tunnel *tunnel)
{
	tunnel->dirty = true;
	return &tunnel->control;
}

void tunnel_put_done(struct tunnel *tunnel, uint32_t stream)
{
	struct out *out = tunnel_answer(tunnel);

	frame_end(out, frame_begin(out, F_DONE, stream));
}

void tunnel_put_error(struct tunnel *tunnel, uint32_t stream, int error, enum stage stage, const char *text)
{
	struct out *out = tunnel_answer(tunnel);
	size_t frame = frame_begin(out, F_ERROR, stream);

	out_u32(out, (uint32_t)error);
	out_u8(out, (uint8_t)stage);
	out_text(out, text, strlen(text));
	frame_end(out, frame);
}

static void put_started(struct out *out, struct reader *reader)
{
	const struct process *process = reader->process;
	size_t frame = frame_begin(out, F_STARTED, reader->stream);

	timer_stop(&reader->tell);
	reader->told = true;
	out_u8(out, reader->existing);
	out_u32(out, process->reaped ? 0 : (uint32_t)process->pid);
	out_u64(out, ring_first_seq(&process->ring));
	out_u64(out, process->ring.last_seq);
	out_u64(out, process->input.confirmed + process->input.length);
	out_u64(out, (uint64_t)process->started_wall_ms);
	frame_end(out, frame);
}

void tunnel_put_started(struct reader *reader)
{
	if (!reader->told)
		put_started(tunnel_answer(reader->tunnel), reader);
}

void tunnel_put_stdin_ack(struct reader *reader)
{
	const struct input *input = &reader->process->input;
	struct out *out = tunnel_answer(reader->tunnel);
	uint64_t waiting = reader->appended_end > input->confirmed ? reader->appended_end - input->confirmed : 0;

	size_t frame;

	tunnel_put_started(reader);
	frame = frame_begin(out, F_STDIN_ACK, reader->stream);
	/* What others have appended since stands before the end of what it has, so it counts as waiting, too. */
	if (reader->appended_end)
		out_u64(out, waiting > reader->appended ? 0 : reader->appended - waiting);
	else
		out_u64(out, input->confirmed);
	out_u8(out, input->closed);
	frame_end(out, frame);
}

void tunnel_fault(struct tunnel *tunnel, const char *text)
{
	struct out *out = tunnel_answer(tunnel);
	size_t frame = frame_begin(out, F_FAULT, 0);

	out_text(out, text, strlen(text));
	frame_end(out, frame);
	tunnel->ends = true;
	watch_stop(&tunnel->in);
}

struct reader *tunnel_reader(const struct tunnel *tunnel, uint32_t stream)
{
	struct reader *reader = tunnel->readers;

	while (reader && reader->stream != stream)
		reader = reader->next_of_tunnel;
	return reader;
}

void tunnel_queue(struct reader *reader)
{
	struct tunnel *tunnel = reader->tunnel;

	if (reader->queued)
		return;
	reader->queued = tunnel->dirty = true;
	reader->next_queued = NULL;
	if (tunnel->queue_last)
		tunnel->queue_last->next_queued = reader;
	else
		tunnel->queue_first = reader;
	tunnel->queue_last = reader;
}

void tunnel_remove_reader(struct reader *reader)
{
	struct tunnel *tunnel = reader->tunnel;
	struct reader **link = &tunnel->readers, *before = NULL;

	while (*link != reader)
		link = &(*link)->next_of_tunnel;
	*link = reader->next_of_tunnel;
	for (link = &tunnel->queue_first; *link; before = *link, link = &(*link)->next_queued)
		if (*link == reader) {
			*link = reader->next_queued;
			if (tunnel->queue_last == reader)
				tunnel->queue_last = before;
			break;
		}
	timer_stop(&reader->tell);
	process_detach(reader);
	free(reader);
}

static void put_lost(struct out *out, struct reader *reader)
{
	size_t frame = frame_begin(out, F_LOST, reader->stream);

	out_u64(out, reader->lost_first);
	out_u64(out, reader->lost_last);
	frame_end(out, frame);
	reader->lost_last = 0;
}

static void put_piece(struct out *out, struct reader *reader)
{
	struct piece *piece = reader->to_send;
	size_t frame = frame_begin(out, F_OUTPUT, reader->stream);

	out_u64(out, piece->seq);
	out_u8(out, piece->stream);
	out_bytes(out, piece->data, piece->length);
	frame_end(out, frame);
	reader->sent_seq = piece->seq;
	reader->unacked += piece->length;
	reader->to_send = piece->next;
}

/* One frame of what the reader has to get, in order. Returns whether there may be more. */
static bool put_next(struct out *out, struct reader *reader)
{
	if (!reader->told)
		put_started(out, reader);
	if (reader->lost_last) {
		put_lost(out, reader);
		return true;
	}
	if (reader->to_send) {
		if (reader->unacked > 0 && reader->unacked + reader->to_send->length > reader->window)
			return false;
		put_piece(out, reader);
		return true;
	}
	if (reader->process->ended && !reader->exit_sent) {
		process_put_exit(reader->process, out, reader->stream);
		reader->exit_sent = true;
	}
	return false;
}

/* Puts together what is written next: answers first, then a frame of each reader in turn. */
static void refill(struct tunnel *tunnel)
{
	struct out *sending = &tunnel->sending;

	sending->length = tunnel->sent = 0;
	if (tunnel->control.length > 0) {
		struct out swapped = *sending;

		*sending = tunnel->control;
		tunnel->control = swapped;
		tunnel->control.length = 0;
	}
	while (tunnel->queue_first && sending->length < SENDING_BYTES && !tunnel->ends) {
		struct reader *reader = tunnel->queue_first;

		tunnel->queue_first = reader->next_queued;
		if (tunnel->queue_first == NULL)
			tunnel->queue_last = NULL;
		reader->queued = false;
		if (put_next(sending, reader))
			tunnel_queue(reader);
	}
}

/* Memory that a burst has taken goes back when it is over. */
static void shrink(struct out *out, size_t most)
{
	if (out->length == 0 && out->capacity > most)
		out_free(out);
}

static void flush(struct tunnel *tunnel)
{
	tunnel->dirty = false;
	for (int i = 0; i < WRITES_AT_ONCE; i++) {
		ssize_t written;

		if (tunnel->sent == tunnel->sending.length)
			refill(tunnel);
		if (tunnel->sending.length == 0) {
			shrink(&tunnel->sending, SENDING_BYTES * 2);
			shrink(&tunnel->control, SENDING_BYTES * 2);
			watch_for(&tunnel->out, 0);
			if (tunnel->ends)
				tunnel_close(tunnel);
			else
				watch_for(&tunnel->in, EPOLLIN);
			return;
		}
		written = write(tunnel->out.fd, tunnel->sending.data + tunnel->sent, tunnel->sending.length - tunnel->sent);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno != EAGAIN) {
			tunnel_close(tunnel);
			return;
		}
		if (written < 0)
			break;
		tunnel->sent += (size_t)written;
	}
	watch_for(&tunnel->out, EPOLLOUT);
	if (tunnel->control.length > CONTROL_MAX)
		watch_for(&tunnel->in, 0);
}

void tunnels_settle(void)
{
	for (struct tunnel *tunnel = tunnels, *next; tunnel; tunnel = next) {
		next = tunnel->next;
		if (tunnel->dirty && !tunnel->closed && tunnel->out.fd >= 0)
			flush(tunnel);
		if (tunnel->closed)
			tunnel_free(tunnel);
	}
}

void tunnels_rest(void)
{
	for (struct tunnel *tunnel = tunnels; tunnel; tunnel = tunnel->next) {
		shrink(&tunnel->sending, 0);
		shrink(&tunnel->control, 0);
		if (tunnel->received_length > 0)
			continue;
		free(tunnel->received);
		tunnel->received = NULL;
	}
}

static void on_writable(struct watch *watch, uint32_t events)
{
	struct tunnel *tunnel = CONTAINER_OF(watch, struct tunnel, out);

	(void)events;
	tunnel->dirty = true;
}

static void on_silence(struct timer *timer)
{
	tunnel_close(CONTAINER_OF(timer, struct tunnel, silence));
}

/* Acts on every whole frame there is. Returns how many bytes these were. */
static size_t handle_frames(struct tunnel *tunnel)
{
	size_t at = 0;

	while (!tunnel->ends && !tunnel->closed && tunnel->received_length - at >= FRAME_HEADER) {
		struct in in = in_of(tunnel->received + at, FRAME_HEADER);
		uint32_t length = in_u32(&in);
		uint8_t type = in_u8(&in);
		uint32_t stream = in_u32(&in);

		if (length > MAX_PAYLOAD) {
			tunnel_fault(tunnel, "a frame is too long");
			break;
		}
		if (tunnel->received_length - at < FRAME_HEADER + length)
			break;
		request_handle(tunnel, type, stream, tunnel->received + at + FRAME_HEADER, length);
		at += FRAME_HEADER + length;
	}
	return at;
}

static void receive(struct watch *watch, uint32_t events)
{
	struct tunnel *tunnel = CONTAINER_OF(watch, struct tunnel, in);
	ssize_t length;
	size_t done;

	(void)events;
	if (tunnel->received == NULL)
		tunnel->received = must(malloc(RECEIVE_BYTES));
	length = read(watch->fd, tunnel->received + tunnel->received_length, RECEIVE_BYTES - tunnel->received_length);
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0) {
		tunnel_close(tunnel);
		return;
	}
	timer_set(&tunnel->silence, SILENCE_MS);
	tunnel->received_length += (size_t)length;
	done = handle_frames(tunnel);
	tunnel->received_length -= done;
	memmove(tunnel->received, tunnel->received + done, tunnel->received_length);
}

static void greet(struct tunnel *tunnel)
{
	static const char build[] = "sandyard-warden 1";
	struct out *out = tunnel_answer(tunnel);
	size_t frame = frame_begin(out, F_GREETING, 0);

	out_u32(out, HELLO_MAGIC);
	out_u16(out, PROTOCOL_VERSION);
	out_bytes(out, boot_id, BOOT_ID_BYTES);
	out_text(out, build, sizeof build - 1);
	frame_end(out, frame);
}

/* It says nothing any more: the process at its other end has gone. */
static void on_keeper_gone(struct watch *watch, uint32_t events)
{
	(void)events;
	tunnel_close(CONTAINER_OF(watch, struct tunnel, keeper));
}

struct tunnel *tunnel_new(int keeper)
{
	struct tunnel *tunnel;

	if (tunnel_count >= TUNNEL_MAX)
		return NULL;
	tunnel = must(calloc(1, sizeof *tunnel));
	tunnel->keeper = (struct watch){ .fd = keeper, .ready = on_keeper_gone };
	tunnel->in.fd = tunnel->out.fd = -1;
	tunnel->silence.fire = on_silence;
	tunnel->next = tunnels;
	tunnels = tunnel;
	tunnel_count++;
	timer_set(&tunnel->silence, GREETING_MS);
	watch_for(&tunnel->keeper, EPOLLIN);
	return tunnel;
}

bool tunnel_begin(struct tunnel *tunnel, int in, int out)
{
	tunnel->in = (struct watch){ .fd = in, .ready = receive };
	tunnel->out = (struct watch){ .fd = out, .ready = on_writable };
	/* More than a pipe has by default, for fewer turns in a long stream; it works without. */
	fcntl(in, F_SETPIPE_SZ, TUNNEL_PIPE);
	fcntl(out, F_SETPIPE_SZ, TUNNEL_PIPE);
	if (fcntl(in, F_SETFL, O_NONBLOCK) < 0 || fcntl(out, F_SETFL, O_NONBLOCK) < 0 ||
	    watch_for(&tunnel->in, EPOLLIN) < 0)
		return false;
	tunnel->keeper.ready = on_keeper_gone;
	timer_set(&tunnel->silence, SILENCE_MS);
	greet(tunnel);
	return true;
}

/* What is said on a tunnel: answers and output, put together and written. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tunnel.h"

/* How much is put together for one write: enough to make small frames cheap, little enough for an answer to
 * overtake. */
#define SENDING_BYTES (128u << 10)
#define WRITES_AT_ONCE 16
/* Of a manager that doesn't read its answers no more requests are read. */
#define CONTROL_MAX (1u << 20)

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
	/* What others have appended in between may count as waiting, too: it is never told of more than was read. */
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

/* The next frame of what the reader has to get, behind STARTED if it doesn't know yet. Returns whether there may be
 * more. */
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
	if (reader->process->ended && !reader->process->ended_by_end && !reader->exit_sent) {
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

static void shrink(struct out *out, size_t most)
{
	if (out->length == 0 && out->capacity > most)
		out_free(out);
}

void tunnel_trim(struct tunnel *tunnel, size_t most)
{
	shrink(&tunnel->sending, most);
	shrink(&tunnel->control, most);
}

void tunnel_flush(struct tunnel *tunnel)
{
	tunnel->dirty = false;
	for (int i = 0; i < WRITES_AT_ONCE; i++) {
		ssize_t written;

		if (tunnel->sent == tunnel->sending.length)
			refill(tunnel);
		if (tunnel->sending.length == 0) {
			/* Memory that a burst has taken goes back when it is over. */
			tunnel_trim(tunnel, SENDING_BYTES * 2);
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

/* What processes read, from the tunnels into their pipes and terminals. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "process.h"
#include "tunnel.h"

#define TELL_BYTES (128u << 10)
/* What a terminal takes for the end of its input, unless the process has changed that. */
#define END_OF_FILE 4

static void tell(struct process *process)
{
	process->input.told = process->input.confirmed;
	for (struct reader *reader = process->readers; reader; reader = reader->next)
		tunnel_put_stdin_ack(reader);
}

static void forget_data(struct input *input)
{
	free(input->data);
	input->data = NULL;
	input->start = input->length = 0;
}

void input_close(struct process *process)
{
	struct input *input = &process->input;

	forget_data(input);
	if (input->watch.fd >= 0) {
		watch_stop(&input->watch);
		close(input->watch.fd);
		input->watch.fd = -1;
	}
	if (input->closed)
		return;
	input->closed = true;
	tell(process);
}

/* Writes what the process takes now. Returns how much that was; closes the input of one that reads no more. */
static uint32_t write_some(struct process *process, const uint8_t *data, uint32_t length)
{
	struct input *input = &process->input;
	uint32_t done = 0;

	while (done < length) {
		ssize_t written = write(input->watch.fd, data + done, length - done);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno != EAGAIN)
			input_close(process);
		if (written < 0)
			break;
		done += (uint32_t)written;
		input->confirmed += (uint64_t)written;
	}
	return done;
}

/* Ends what is to be ended, waits for what is to be waited for, and tells the readers how far it has come. */
static void settle(struct process *process)
{
	struct input *input = &process->input;
	bool all = input->length == 0;

	if (input->closed)
		return;
	if (all)
		forget_data(input);
	if (input->confirmed - input->told >= TELL_BYTES || (all && input->confirmed != input->told))
		tell(process);
	if (!all || !input->ends) {
		watch_for(&input->watch, all ? 0 : EPOLLOUT);
		return;
	}
	if (process->flags & SPAWN_TTY) {
		if (write(input->watch.fd, &(char){ END_OF_FILE }, 1) == 1)
			input->ends = false;
		else if (errno == EAGAIN || errno == EINTR)
			watch_for(&input->watch, EPOLLOUT);
		else
			input_close(process);
	} else {
		input_close(process);
	}
}

static void input_ready(struct watch *watch, uint32_t events)
{
	struct process *process = CONTAINER_OF(watch, struct process, input.watch);
	struct input *input = &process->input;
	uint32_t done;

	if (input->length == 0 && (events & (EPOLLERR | EPOLLHUP))) {
		input_close(process);
		return;
	}
	done = write_some(process, input->data + input->start, input->length);
	if (input->closed)
		return;
	input->start += done;
	input->length -= done;
	settle(process);
}

void input_open(struct process *process, int fd)
{
	process->input.watch = (struct watch){ .fd = fd, .ready = input_ready };
}

static void keep(struct input *input, const uint8_t *data, uint32_t length)
{
	/* What was written already makes way. */
	if (input->start > 0)
		memmove(input->data, input->data + input->start, input->length);
	input->start = 0;
	input->data = must(realloc(input->data, input->length + length));
	memcpy(input->data + input->length, data, length);
	input->length += length;
}

/* Whether the reader may append that much. What others have put before its own counts, too, so the bound is above what
 * the protocol has for one. */
static bool may_append(struct reader *reader, uint32_t length)
{
	const struct input *input = &reader->process->input;
	uint64_t waiting = reader->appended_end > input->confirmed ? reader->appended_end - input->confirmed : 0;

	return waiting + length <= INPUT_MAX * 2;
}

bool input_take(struct reader *reader, uint64_t offset, const uint8_t *data, uint32_t length)
{
	struct process *process = reader->process;
	struct input *input = &process->input;
	uint64_t end = input->confirmed + input->length;
	uint32_t done = 0;

	if (input->closed)
		tunnel_put_stdin_ack(reader);
	if (input->closed || input->ends)
		return true;
	if (offset == APPENDED) {
		if (!may_append(reader, length))
			return false;
		reader->appended += length;
		reader->appended_end = end + length;
	} else {
		if (offset > end || offset + length < offset)
			return false;
		if (offset + length <= end)
			return true;
		data += end - offset;
		length -= (uint32_t)(end - offset);
		if (input->length + length > INPUT_MAX)
			return false;
	}
	if (input->length == 0)
		done = write_some(process, data, length);
	if (input->closed)
		return true;
	if (done < length)
		keep(input, data + done, length - done);
	settle(process);
	return true;
}

bool input_end(struct reader *reader, uint64_t offset)
{
	struct process *process = reader->process;
	struct input *input = &process->input;

	if (input->closed || input->ends)
		return true;
	if (offset != APPENDED && offset > input->confirmed + input->length)
		return false;
	input->ends = true;
	settle(process);
	return true;
}

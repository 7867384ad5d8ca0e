/* What processes print, from their pipes and terminals into their rings. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "process.h"
#include "tunnel.h"

#define RING_MAX (1u << 20)
/* What each may keep however much all of them keep. */
#define RING_MIN (128u << 10)
#define READS_AT_ONCE 16
/* How large a piece is at the most. It goes through hands that take 32 KiB at a time: of pieces that are smaller
 * most arrive whole, and whoever receives them needn't put them together. */
#define PIECE_BYTES (16u << 10)
/* How long the rest of a character may take. */
#define CARRY_MS 20

static size_t total_max = 16u << 20;
static uint8_t scratch[PIECE_BYTES];

void output_set_memory(uint64_t memory_limit)
{
	if (memory_limit / 8 < total_max)
		total_max = (size_t)(memory_limit / 8);
}

bool output_is_open(const struct output *output)
{
	return output->watch.fd >= 0;
}

static void output_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	output_read(CONTAINER_OF(watch, struct output, watch));
}

void output_open(struct output *output, int fd)
{
	output->watch = (struct watch){ .fd = fd, .ready = output_ready };
	watch_for(&output->watch, EPOLLIN);
}

void output_close(struct output *output)
{
	if (!output_is_open(output))
		return;
	timer_stop(&output->carry_timer);
	watch_stop(&output->watch);
	close(output->watch.fd);
	output->watch.fd = -1;
}

/* Up to which number pieces may be dropped for want of room: as far as all readers have come. With no reader: as far as
 * any has, so that nothing is lost unread, or, with RUN_UNREAD, any of them. */
static uint64_t droppable(const struct process *process)
{
	uint64_t seq = UINT64_MAX;

	for (const struct reader *reader = process->readers; reader; reader = reader->next)
		if (reader->acked_seq < seq)
			seq = reader->acked_seq;
	if (process->readers || (process->flags & SPAWN_RUN_UNREAD))
		return seq;
	return process->acked_seq;
}

static bool has_room(struct process *process)
{
	size_t most = ring_total > total_max ? RING_MIN : RING_MAX;
	struct ring *ring = &process->ring;
	uint64_t seq = droppable(process);

	while (ring->first && ring->first->seq <= seq && ring->bytes + MAX_DATA > most)
		ring_drop_first(ring);
	return ring->bytes + MAX_DATA <= most;
}

/* How many bytes at the end are the beginning of a character whose rest is missing (RFC 3629, section 3). */
static uint32_t unfinished(const uint8_t *data, uint32_t length)
{
	for (uint32_t back = 1; back <= 3 && back <= length; back++) {
		uint8_t byte = data[length - back];
		uint32_t whole = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;

		if ((byte & 0xc0) != 0x80)
			return whole > back ? back : 0;
	}
	return 0;
}

static void add(struct output *output, const uint8_t *data, uint32_t length)
{
	struct process *process = output->process;

	if (length == 0)
		return;
	ring_add(&process->ring, output->stream, data, length);
	for (struct reader *reader = process->readers; reader; reader = reader->next) {
		if (reader->to_send == NULL)
			reader->to_send = process->ring.last;
		if (reader->to_ack == NULL)
			reader->to_ack = process->ring.last;
		tunnel_queue(reader);
	}
}

void output_flush(struct output *output)
{
	uint32_t carried = output->carried;

	timer_stop(&output->carry_timer);
	output->carried = 0;
	add(output, output->carry, carried);
}

static void on_carry(struct timer *timer)
{
	output_flush(CONTAINER_OF(timer, struct output, carry_timer));
}

/* Takes what was read behind what was carried over, counts all of it, and keeps what is within the limit. */
static void take(struct output *output, uint32_t length)
{
	struct process *process = output->process;
	uint32_t whole = output->carried + length;
	uint64_t room = process->limit - output->kept;
	uint32_t tail;

	output->total += length;
	if (process->ended)
		return;
	if (length > room)
		whole -= length - (uint32_t)room;
	output->kept += length > room ? room : length;
	tail = (process->flags & SPAWN_TEXT) && length <= room ? unfinished(scratch, whole) : 0;
	add(output, scratch, whole - tail);
	memcpy(output->carry, scratch + whole - tail, tail);
	output->carried = (uint8_t)tail;
	output->carry_timer.fire = on_carry;
	if (tail > 0)
		timer_set(&output->carry_timer, CARRY_MS);
	else
		timer_stop(&output->carry_timer);
}

static void set_paused(struct output *output, bool paused)
{
	output->paused = paused;
	watch_for(&output->watch, paused ? 0 : EPOLLIN);
}

void output_read(struct output *output)
{
	struct process *process = output->process;

	for (int i = 0; i < READS_AT_ONCE; i++) {
		bool is_kept = !process->ended && output->kept < process->limit;
		ssize_t length;

		if (is_kept && !has_room(process)) {
			set_paused(output, true);
			break;
		}
		memcpy(scratch, output->carry, output->carried);
		length = read(output->watch.fd, scratch + output->carried, sizeof scratch - output->carried);
		if (length < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		/* EIO is how a terminal says that nothing has it open any more. */
		if (length <= 0) {
			output_flush(output);
			output_close(output);
			break;
		}
		take(output, (uint32_t)length);
	}
	process_drained(process);
}

void output_resume(struct process *process)
{
	for (int i = 0; i < 2; i++) {
		struct output *output = &process->output[i];

		if (output_is_open(output) && output->paused && (process->ended || has_room(process)))
			set_paused(output, false);
	}
}

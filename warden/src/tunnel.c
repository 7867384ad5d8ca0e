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

static struct tunnel *tunnels;
static int tunnel_count;

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

struct reader *tunnel_reader(const struct tunnel *tunnel, uint32_t stream)
{
	struct reader *reader = tunnel->readers;

	while (reader && reader->stream != stream)
		reader = reader->next_of_tunnel;
	return reader;
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

void tunnels_settle(void)
{
	for (struct tunnel *tunnel = tunnels, *next; tunnel; tunnel = next) {
		next = tunnel->next;
		if (tunnel->dirty && !tunnel->closed && tunnel->out.fd >= 0)
			tunnel_flush(tunnel);
		if (tunnel->closed)
			tunnel_free(tunnel);
	}
}

void tunnels_rest(void)
{
	for (struct tunnel *tunnel = tunnels; tunnel; tunnel = tunnel->next) {
		tunnel_trim(tunnel, 0);
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
	if (keeper >= 0)
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

void tunnel_open(int in, int out)
{
	struct tunnel *tunnel = tunnel_new(-1);

	if (tunnel == NULL) {
		close(in);
		close(out);
	} else if (!tunnel_begin(tunnel, in, out))
		tunnel_close(tunnel);
}

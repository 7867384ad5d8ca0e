/* Feeds a tunnel with frames that are nearly right, for a bounded time: `fuzz SECONDS SEED`. Whatever comes, the
 * tunnel may end, but nothing else may: the sanitizers that this is built with watch over the warden's memory. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/mark.h"
#include "../src/tunnel.h"

#define IDS 6

static uint64_t state;
static unsigned long frames, tunnels;

bool mark_left(gid_t mark, bool (*is_main)(pid_t pid))
{
	return is_main((pid_t)mark);
}

/* Processes get pipes and a child that prints a little. */
int spawn_start(struct process *process, const struct spawn_request *request, enum stage *stage)
{
	int input[2], output[2];
	sigset_t all, before;

	*stage = STAGE_MAKE;
	if (request->rows == 13 || pipe2(input, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(output, O_CLOEXEC | O_NONBLOCK) < 0)
		return EAGAIN;
	/* It gets all kinds of signals, which are no faults here: also before the sanitizers' handlers of them are
	 * gone. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	process->pid = fork();
	if (process->pid == 0) {
		for (int number = 1; number < 32; number++)
			signal(number, SIG_DFL);
		sigprocmask(SIG_SETMASK, &before, NULL);
		for (unsigned int i = 0; i < request->columns % 8u; i++)
			if (write(output[1], "some of its output", 18) < 0)
				break;
		usleep(request->rows % 32u * 100u);
		_exit(request->columns & 127);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(input[0]);
	close(output[1]);
	input_open(process, input[1]);
	output_open(&process->output[0], output[0]);
	return 0;
}

/* xorshift64*, so that a seed is enough to have the same run again. */
static uint32_t pick(uint32_t below)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)((state * 2685821657736338717ull) >> 33) % below;
}

static uint64_t number(void)
{
	static const uint64_t odd[] = { 0, 1, 2, 255, 65536, 1u << 31, UINT32_MAX, 1ull << 40, INT64_MAX, UINT64_MAX };

	return pick(3) ? pick(64) : odd[pick(sizeof odd / sizeof *odd)];
}

static void put_id(struct out *out)
{
	char id[8];

	snprintf(id, sizeof id, "p%u", pick(IDS));
	out_text(out, id, strlen(id));
}

static void put_list(struct out *out, uint32_t count)
{
	static const char *const words[] = { "b", "cat", "A=1", "", "PATH=/", "a longer word than the others" };

	out_u32(out, count);
	for (uint32_t i = 0; i < count; i++) {
		const char *word = words[pick(6)];

		out_text(out, word, strlen(word));
	}
}

static void put_spawn(struct out *out)
{
	out_u32(out, pick(64));
	out_u32(out, pick(8) ? 1000 : 0);
	out_u32(out, 1000);
	out_u32(out, pick(20));
	out_u32(out, pick(20));
	out_u32(out, (uint32_t)number());
	out_u64(out, number());
	out_u16(out, (uint16_t)pick(64));
	out_u16(out, (uint16_t)pick(256));
	put_id(out);
	out_text(out, "/", 1);
	put_list(out, pick(4));
	put_list(out, pick(4));
	out_u32(out, 0);
}

static void put_fields(struct out *out, uint8_t type)
{
	if (type == F_SPAWN) {
		put_spawn(out);
		return;
	}
	if (type == F_HELLO)
		out_u16(out, PROTOCOL_VERSION);
	if (type == F_PING || type == F_ACK || type == F_STDIN || type == F_STDIN_END || type == F_ATTACH ||
	    type == F_RECORD_SET)
		out_u64(out, number());
	if (type == F_ATTACH || type == F_SIGNAL || type == F_KILL || type == F_RESIZE)
		out_u32(out, (uint32_t)number());
	if (type == F_KILL)
		out_u32(out, pick(50));
	if (type == F_SIGNAL)
		out_u8(out, (uint8_t)pick(3));
	if (type == F_RECORD_SET) {
		for (int i = 0; i < 3; i++)
			out_u64(out, number());
		out_u8(out, (uint8_t)pick(4));
		out_u64(out, number());
		out_u8(out, (uint8_t)pick(3));
		out_text(out, "{}", pick(3));
	}
	if (type == F_STDIN)
		out_bytes(out, "some input for it", pick(17) + 1);
	if (type == F_ATTACH || type == F_SIGNAL || type == F_KILL || type == F_FORGET || type == F_WAIT)
		put_id(out);
}

static void put_frame(struct out *out)
{
	static const uint8_t types[] = { F_HELLO, F_PART, F_PING, F_SPAWN, F_SPAWN, F_SPAWN, F_ATTACH, F_ACK, F_STDIN,
					 F_STDIN_END, F_RESIZE, F_DETACH, F_SIGNAL, F_KILL, F_LIST, F_FORGET, F_USAGE, F_USAGE_HISTORY,
					 F_RECORD_GET, F_RECORD_SET, F_WAIT };
	uint8_t type = types[pick(sizeof types)];
	size_t frame = frame_begin(out, type, type == F_HELLO || type == F_PING ? 0 : pick(40) + 1);

	put_fields(out, type);
	frame_end(out, frame);
	frames++;
}

/* Now and then a byte is changed, the rest is cut off, or it is noise altogether. */
static void damage(struct out *out)
{
	if (out->length == 0 || pick(4))
		return;
	if (pick(3))
		out->data[pick((uint32_t)out->length)] = (uint8_t)pick(256);
	else
		out->length = pick((uint32_t)out->length);
}

static void drain(int fd)
{
	char buffer[65536];

	while (read(fd, buffer, sizeof buffer) > 0)
		;
}

static void run_tunnel(void)
{
	int keeper[2], data[2];
	struct out out = { 0 };

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, keeper) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, data) < 0)
		err(2, "sockets");
	tunnel_begin(tunnel_new(keeper[0]), data[0], dup(data[0]));
	tunnels++;
	for (uint32_t rounds = pick(30); rounds > 0; rounds--) {
		out.length = 0;
		for (uint32_t count = pick(6); count > 0; count--)
			put_frame(&out);
		damage(&out);
		if (send(data[1], out.data, out.length, MSG_NOSIGNAL) < 0)
			break;
		for (int i = 0; i < 3; i++) {
			static struct timer soon;

			soon.fire = timer_stop;
			timer_set(&soon, 0);
			loop_round();
			process_reap();
			tunnels_settle();
		}
		if (pick(4))
			drain(data[1]);
	}
	out_free(&out);
	close(keeper[1]);
	close(data[1]);
}

int main(int argc, char **argv)
{
	int64_t until = now_ms() + (argc > 1 ? atoi(argv[1]) : 10) * 1000;

	state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	state = state ? state : 1;
	/* As in init.c. */
	signal(SIGPIPE, SIG_IGN);
	loop_open();
	while (now_ms() < until)
		run_tunnel();
	printf("%lu frames in %lu tunnels\n", frames, tunnels);
	return 0;
}

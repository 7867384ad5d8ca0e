/* Joins standard input and output to a TCP connection to a port of the sandbox's own. */
#include "builtin.h"
#include "operation.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER ((size_t)64 * 1024)

/* One way through: what was read from one descriptor and not yet written to the other. */
struct way {
	int from, to;
	size_t start, end;
	bool read_all, over;
	unsigned char buffer[BUFFER];
};

static int connect_to(const struct sockaddr *address, socklen_t size)
{
	const int on = 1;
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (connect(fd, address, size) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	/* What is sent was gathered by whoever sends it: nothing is won by waiting for more. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static int connect_loopback(in_port_t port)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd, error;

	four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = connect_to((const struct sockaddr *)&four, sizeof(four));
	if (fd >= 0)
		return fd;
	error = errno;
	fd = connect_to((const struct sockaddr *)&six, sizeof(six));
	/* Where there is no IPv6, the fault of the first is the one that says something. */
	if (fd < 0)
		errno = error;
	return fd;
}

static int make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? errno : 0;
}

static bool not_now(void)
{
	return errno == EAGAIN || errno == EINTR;
}

static int fill(struct way *way)
{
	ssize_t got = read(way->from, way->buffer, BUFFER);

	if (got < 0)
		return not_now() ? 0 : errno;
	way->start = 0;
	way->end = (size_t)got;
	way->read_all = got == 0;
	return 0;
}

static int drain(struct way *way)
{
	ssize_t put = write(way->to, way->buffer + way->start, way->end - way->start);

	if (put < 0)
		return not_now() ? 0 : errno;
	way->start += (size_t)put;
	return 0;
}

/* The end of file goes on, and the other way stays open. */
static void finish(struct way *way)
{
	way->over = true;
	if (shutdown(way->to, SHUT_WR) < 0 && errno == ENOTSOCK)
		close(way->to);
}

static int move(struct way *way, short ready_from, short ready_to)
{
	int error = 0;

	if (way->over)
		return 0;
	if (way->start == way->end && !way->read_all && ready_from)
		error = fill(way);
	if (!error && way->start < way->end && ready_to)
		error = drain(way);
	if (!error && way->start == way->end && way->read_all)
		finish(way);
	return error;
}

static struct pollfd waiting_for(const struct way *way)
{
	struct pollfd poll_for = { .fd = -1 };

	if (!way->over) {
		bool empty = way->start == way->end;

		poll_for.fd = empty ? way->from : way->to;
		poll_for.events = empty ? POLLIN : POLLOUT;
	}
	return poll_for;
}

static int relay(struct way *out, struct way *in)
{
	/* A server that has said all has mostly closed, too, and whoever waits for that end isn't told it before
	 * this ends. */
	while (!in->over) {
		/* The last one tells that nobody reads what is received, although nothing is being received. */
		struct pollfd fds[] = { waiting_for(out), waiting_for(in), { .fd = in->to } };
		int error;

		if (poll(fds, 3, -1) < 0) {
			if (errno == EINTR)
				continue;
			return errno;
		}
		if (fds[2].revents & POLLERR)
			return EPIPE;
		error = move(out, fds[0].revents, 1);
		/* One that takes no more may still have something to say. */
		if (error == EPIPE || error == ECONNRESET) {
			out->over = true;
			error = 0;
		}
		if (!error)
			error = move(in, fds[1].revents, 1);
		if (error)
			return error;
	}
	return 0;
}

int builtin_dial(int argc, char **argv)
{
	static struct way out, in;
	uint64_t port;
	int fd, error;

	operation_begin();
	if (argc != 2 || !parse_decimal(argv[1], &port) || port == 0 || port > UINT16_MAX)
		return EINVAL;
	fd = connect_loopback((in_port_t)port);
	if (fd < 0)
		return blame(argv[1], errno);
	/* Whoever connects may be the one who speaks first. */
	if (write(STDOUT_FILENO, "", 1) < 0)
		return errno;
	error = make_nonblocking(STDIN_FILENO);
	if (!error)
		error = make_nonblocking(STDOUT_FILENO);
	if (!error)
		error = make_nonblocking(fd);
	if (error)
		return blame(argv[1], error);
	out.from = STDIN_FILENO;
	out.to = fd;
	in.from = fd;
	in.to = STDOUT_FILENO;
	return blame(argv[1], relay(&out, &in));
}

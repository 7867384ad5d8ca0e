/* Where tunnels come from: the socket that only root can reach. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "init.h"
#include "tunnel.h"

#define LATER_MS 200

static struct watch listener;
static struct timer later;

static bool take_descriptors(struct tunnel *tunnel, struct msghdr *message)
{
	struct cmsghdr *header = CMSG_FIRSTHDR(message);
	int fds[2];

	if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof fds))
		return false;
	memcpy(fds, CMSG_DATA(header), sizeof fds);
	return tunnel_begin(tunnel, fds[0], fds[1]);
}

/* Brings the descriptors that the tunnel is to read and write. */
static void on_descriptors(struct watch *watch, uint32_t events)
{
	struct tunnel *tunnel = CONTAINER_OF(watch, struct tunnel, keeper);
	char byte, control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8)));
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control,
	};

	(void)events;
	if (recvmsg(watch->fd, &message, MSG_CMSG_CLOEXEC) <= 0 || !take_descriptors(tunnel, &message))
		tunnel_close(tunnel);
}

/* The directory of the socket is root's alone; what is at the other end nonetheless isn't anybody to talk to. */
bool tunnel_peer_is_root(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof peer;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == 0;
}

static void on_later(struct timer *timer)
{
	(void)timer;
	watch_for(&listener, EPOLLIN);
}

static void on_connection(struct watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct tunnel *tunnel;

	(void)events;
	if (fd < 0) {
		/* Without a descriptor for it, it would be there again at once. */
		watch_for(&listener, 0);
		later.fire = on_later;
		timer_set(&later, LATER_MS);
		return;
	}
	tunnel = tunnel_peer_is_root(fd) ? tunnel_new(fd) : NULL;
	if (tunnel)
		tunnel->keeper.ready = on_descriptors;
	else
		close(fd);
}

int tunnel_open_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET_PATH };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	unlink(SOCKET_PATH);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 16) < 0)
		return -1;
	listener = (struct watch){ .fd = fd, .ready = on_connection };
	return watch_for(&listener, EPOLLIN);
}

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "init.h"

static int send_standard_streams(int fd)
{
	char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec data = { &(char){ 0 }, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control,
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(header), (int[]){ 0, 1 }, 2 * sizeof(int));
	return sendmsg(fd, &message, 0) == 1 ? 0 : -1;
}

int connect_main(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET_PATH };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char byte;

	/* The end of the sandbox is told through this tunnel, too. */
	signal(SIGTERM, SIG_IGN);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || send_standard_streams(fd) < 0) {
		dprintf(2, "sandyard-warden: %s: %s\n", SOCKET_PATH, strerror(errno));
		return 69;
	}
	/* PID 1 has them now. Held here as well, they would look open after PID 1 has closed them. */
	close(0);
	close(1);
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}

/* The other way that tunnels come from: a directory of the host's, mounted here, in which managers listen on sockets. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tunnel.h"

static DIR *directory;

/* Only root of the host puts anything there. One that doesn't answer at once is somebody's who has gone. */
static void dial(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t size = sizeof address.sun_path;
	int length = snprintf(address.sun_path, size, "/proc/self/fd/%d/%s", dirfd(directory), name);
	int fd;

	if (length < 0 || (size_t)length >= size)
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && tunnel_peer_is_root(fd))
		tunnel_open(fd, fcntl(fd, F_DUPFD_CLOEXEC, 3));
	else
		close(fd);
}

void dial_all(void)
{
	if (directory == NULL)
		return;
	rewinddir(directory);
	for (const struct dirent *entry; (entry = readdir(directory));)
		/* A socket has such a name until somebody listens on it. */
		if (entry->d_name[0] != '.')
			dial(entry->d_name);
}

void dial_open(const char *path)
{
	directory = opendir(path);
	if (directory == NULL)
		return;
	/* Not by inotify, of which the host's root has no more than 128 instances in all. */
	if (fcntl(dirfd(directory), F_SETSIG, SIGIO) < 0 ||
	    fcntl(dirfd(directory), F_NOTIFY, DN_RENAME | DN_MULTISHOT) < 0) {
		closedir(directory);
		directory = NULL;
		return;
	}
	dial_all();
}

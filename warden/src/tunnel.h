/* Tunnels: the byte streams to the managers, and the frames on them. */
#ifndef TUNNEL_H
#define TUNNEL_H

#include "process.h"
#include "wire.h"

#define TUNNEL_MAX 64

struct tunnel {
	struct tunnel *next;
	struct watch in, out;
	/* The connection to the process that the tunnel's descriptors came from, which ends with the tunnel. */
	struct watch keeper;
	struct timer silence;
	bool closed, dirty;
	/* After a fault: nothing more is read, and it ends when FAULT is sent. */
	bool ends;
	uint8_t *received;
	size_t received_length;
	/* A request that came in parts. */
	struct out parts;
	uint32_t parts_stream;
	struct reader *readers;
	struct reader *queue_first, *queue_last;
	/* Answers, which go before output; and what is being written. */
	struct out control, sending;
	size_t sent;
};

/* accept.c */
int tunnel_open_socket(void);
bool tunnel_peer_is_root(int fd);

/* dial.c: connects to the sockets in this directory, and to each that gets there later, when dial_all is called on SIGIO.
 * Managers have another way in where it can't. */
void dial_open(const char *path);
void dial_all(void);

/* A tunnel that ends with this connection, where it has one (else -1); NULL when there are too many. */
struct tunnel *tunnel_new(int keeper);
void tunnel_close(struct tunnel *tunnel);
/* Has it read and write these. */
bool tunnel_begin(struct tunnel *tunnel, int in, int out);
/* A tunnel that reads and writes these, which are closed where there are too many. */
void tunnel_open(int in, int out);
/* Sends what there is to send, and frees what has ended. */
void tunnels_settle(void);
/* Gives back the buffers that are empty. */
void tunnels_rest(void);

/* Ends a stream. */
void tunnel_remove_reader(struct reader *reader);
struct reader *tunnel_reader(const struct tunnel *tunnel, uint32_t stream);

/* send.c */

/* The buffer for answers. */
struct out *tunnel_answer(struct tunnel *tunnel);
void tunnel_put_done(struct tunnel *tunnel, uint32_t stream);
void tunnel_put_error(struct tunnel *tunnel, uint32_t stream, int error, enum stage stage, const char *text);
/* Tells a reader that the process has started, unless it knows. */
void tunnel_put_started(struct reader *reader);
void tunnel_put_stdin_ack(struct reader *reader);
/* A fault of the other side: says so, and ends the tunnel. */
void tunnel_fault(struct tunnel *tunnel, const char *text);
/* Has the reader looked at for what it has to send. */
void tunnel_queue(struct reader *reader);
/* Writes what there is to send, as far as it goes without waiting. */
void tunnel_flush(struct tunnel *tunnel);
/* Gives back the buffers that are empty and larger than this. */
void tunnel_trim(struct tunnel *tunnel, size_t most);

/* request.c: acts on one frame. */
void request_handle(struct tunnel *tunnel, uint8_t type, uint32_t stream, const uint8_t *payload, size_t length);
/* Decodes SPAWN into a request whose memory is the caller's to free. */
bool request_parse_spawn(struct in in, struct spawn_request *request);
/* From now on a request may name root. */
void request_allow_root(void);

#endif

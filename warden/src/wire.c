#include "wire.h"

#include <stdlib.h>
#include <string.h>

#include "loop.h"

struct in in_of(const void *data, size_t length)
{
	return (struct in){ .at = data, .end = (const uint8_t *)data + length };
}

size_t in_left(const struct in *in)
{
	return (size_t)(in->end - in->at);
}

static uint64_t in_number(struct in *in, size_t bytes)
{
	uint64_t value = 0;

	if (in->bad || in_left(in) < bytes) {
		in->bad = true;
		return 0;
	}
	for (size_t i = 0; i < bytes; i++)
		value |= (uint64_t)in->at[i] << (8 * i);
	in->at += bytes;
	return value;
}

uint8_t in_u8(struct in *in)
{
	return (uint8_t)in_number(in, 1);
}

uint16_t in_u16(struct in *in)
{
	return (uint16_t)in_number(in, 2);
}

uint32_t in_u32(struct in *in)
{
	return (uint32_t)in_number(in, 4);
}

uint64_t in_u64(struct in *in)
{
	return in_number(in, 8);
}

struct text in_text(struct in *in)
{
	struct text text = { "", in_u32(in) };

	if (in->bad || in_left(in) < text.length) {
		in->bad = true;
		return (struct text){ "", 0 };
	}
	text.at = (const char *)in->at;
	in->at += text.length;
	return text;
}

bool in_done(const struct in *in)
{
	return !in->bad && in->at == in->end;
}

void out_reserve(struct out *out, size_t more)
{
	size_t capacity = out->capacity ? out->capacity : 512;

	while (capacity - out->length < more)
		capacity *= 2;
	if (capacity == out->capacity)
		return;
	out->data = must(realloc(out->data, capacity));
	out->capacity = capacity;
}

void out_free(struct out *out)
{
	free(out->data);
	*out = (struct out){ 0 };
}

static void out_number(struct out *out, uint64_t value, size_t bytes)
{
	out_reserve(out, bytes);
	for (size_t i = 0; i < bytes; i++)
		out->data[out->length++] = (uint8_t)(value >> (8 * i));
}

void out_u8(struct out *out, uint8_t value)
{
	out_number(out, value, 1);
}

void out_u16(struct out *out, uint16_t value)
{
	out_number(out, value, 2);
}

void out_u32(struct out *out, uint32_t value)
{
	out_number(out, value, 4);
}

void out_u64(struct out *out, uint64_t value)
{
	out_number(out, value, 8);
}

void out_bytes(struct out *out, const void *data, size_t length)
{
	if (length == 0)
		return;
	out_reserve(out, length);
	memcpy(out->data + out->length, data, length);
	out->length += length;
}

void out_text(struct out *out, const char *text, size_t length)
{
	out_u32(out, (uint32_t)length);
	out_bytes(out, text, length);
}

size_t frame_begin(struct out *out, enum frame_type type, uint32_t stream)
{
	size_t frame = out->length;

	out_u32(out, 0);
	out_u8(out, (uint8_t)type);
	out_u32(out, stream);
	return frame;
}

void frame_end(struct out *out, size_t frame)
{
	size_t length = out->length - frame - FRAME_HEADER;

	for (size_t i = 0; i < 4; i++)
		out->data[frame + i] = (uint8_t)(length >> (8 * i));
}

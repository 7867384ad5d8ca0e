import type { Response } from 'express';

import { MAX_ANSWER_BYTES, type KeptAnswer } from './kept-answers.js';

/** Headers of the one connection, and of the one time. */
const NOT_KEPT = new Set(['connection', 'keep-alive', 'date', 'transfer-encoding']);

type RecordedAnswer = Exclude<KeptAnswer, { readonly error: unknown }>;

/**
 * Notes what is answered, and gives it afterwards; `undefined` where that is too large to be kept, or was streamed, which
 * the answer then says.
 */
export function recordAnswer(response: Response): () => RecordedAnswer | undefined {
  const before = new Set(response.getHeaderNames());
  const [write, end] = [response.write.bind(response), response.end.bind(response)];
  let answer: RecordedAnswer | undefined;
  const refuse = () => {
    if (!response.headersSent) response.set('Idempotent-Kept', 'false');
  };
  response.write = ((...given: Parameters<typeof write>) => {
    refuse();
    return write(...given);
  }) as typeof write;
  response.end = ((...given: Parameters<typeof end>) => {
    const body = toBytes(given);
    if (response.headersSent || body.length > MAX_ANSWER_BYTES) refuse();
    else answer = { status: response.statusCode, headers: headersOf(response, before), body };
    return end(...given);
  }) as typeof end;
  return () => answer;
}

export function sendAnswer({ status, headers, body }: RecordedAnswer, response: Response): void {
  for (const [name, value] of headers) response.setHeader(name, value);
  response.status(status).end(body);
}

function headersOf(response: Response, before: ReadonlySet<string>): RecordedAnswer['headers'] {
  return Object.entries(response.getHeaders()).flatMap(([name, value]) =>
    value === undefined || before.has(name) || NOT_KEPT.has(name) ? [] : [[name, value] as const],
  );
}

/** As `ServerResponse.end` takes it: a text or bytes, if anything, and then perhaps an encoding. */
function toBytes([chunk, encoding]: readonly unknown[]): Buffer {
  if (typeof chunk === 'string')
    return Buffer.from(chunk, typeof encoding === 'string' ? (encoding as 'utf8') : 'utf8');
  return chunk instanceof Uint8Array ? Buffer.from(chunk) : Buffer.alloc(0);
}

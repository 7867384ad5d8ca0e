import type { IncomingMessage } from 'node:http';

/* What a request asks for, and whether that can be told. */

/** `HOST:PORT`; `undefined` for what isn't. */
export function parseAuthority(text: string): { host: string; port: number } | undefined {
  const [, host, port] = /^(\[[0-9A-Fa-f:.%]{1,64}\]|[^\s:@/?#[\]\\]{1,255}):(\d{1,5})$/.exec(text) ?? [];
  const number = Number(port);
  return host === undefined || number < 1 || number > 65_535 ? undefined : { host, port: number };
}

/** What could be read in two ways. */
export function faultOfHead({ headers, httpVersion, rawHeaders }: IncomingMessage): string | undefined {
  const count = (name: string) =>
    rawHeaders.filter((each, index) => index % 2 === 0 && each.toLowerCase() === name).length;
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'It must be HTTP/1.1.';
  if (headers['transfer-encoding'] !== undefined && headers['content-length'] !== undefined) {
    return 'It has two lengths.';
  }
  if (!/^(chunked)?$/i.test(headers['transfer-encoding'] ?? '')) return 'Its encoding is not known.';
  if (count('host') > 1 || count('content-length') > 1) return 'It has a header twice.';
  return undefined;
}

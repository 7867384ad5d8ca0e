import * as fc from 'fast-check';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { connect } from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';

import { readClientHello } from '../../../src/proxy/client-hello.js';

/** What Node.js itself says first. */
async function helloOf(servername: string): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, servername });
  client.on('error', () => {});
  const [socket] = (await once(server, 'connection')) as [Socket];
  const [bytes] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  client.destroy();
  server.close();
  return bytes;
}

/** The same in records of so many bytes. */
function inRecords(hello: Buffer, size: number): Buffer {
  const body = hello.subarray(5);
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; at += size) {
    const part = body.subarray(at, at + size);
    parts.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part);
  }
  return Buffer.concat(parts);
}

describe('what a TLS client says first', () => {
  let hello: Buffer;
  beforeAll(async () => {
    hello = await helloOf('index.test');
  });

  it('has the name of the server', () => {
    expect(readClientHello(hello)).toEqual({ state: 'read', serverName: 'index.test' });
  });

  it('may have none', async () => {
    expect(readClientHello(await helloOf(''))).toEqual({ state: 'read', serverName: undefined });
  });

  it('may come in any pieces, and in any records', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 600 }), fc.nat(), (size, cut) => {
        const whole = inRecords(hello, size);
        expect(readClientHello(whole)).toEqual({ state: 'read', serverName: 'index.test' });
        expect(readClientHello(whole.subarray(0, cut % whole.length)).state).toBe('incomplete');
        expect(readClientHello(Buffer.concat([whole, Buffer.from('more')])).state).toBe('read');
      }),
    );
  });

  it.each([
    ['HTTP', 'GET / HTTP/1.1\r\n'],
    ['SSH', 'SSH-2.0-OpenSSH\r\n'],
    ['an alert', '\x15\x03\x01\x00\x02\x01\x00'],
    ['an empty record', '\x16\x03\x01\x00\x00'],
    ['another handshake message', '\x16\x03\x01\x00\x04\x02\x00\x00\x00'],
  ])('is not %s', (_what, text) => {
    expect(readClientHello(Buffer.from(text, 'latin1')).state).toBe('not_tls');
  });

  it('has one name: of two nobody could tell which is meant', () => {
    const at = hello.indexOf('index.test');
    const entry = hello.subarray(at - 3, at + 10);
    const twice = Buffer.concat([hello.subarray(0, at + 10), entry, hello.subarray(at + 10)]);
    const grow = (offset: number, size: number) =>
      twice.writeUIntBE(twice.readUIntBE(offset, size) + entry.length, offset, size);
    grow(at - 5, 2); // the list of names
    grow(at - 7, 2); // the extension
    grow(3, 2); // the record
    grow(6, 3); // the message
    const extensionsAt = (() => {
      let offset = 5 + 4 + 34;
      offset += 1 + twice.readUInt8(offset);
      offset += 2 + twice.readUInt16BE(offset);
      return offset + 1 + twice.readUInt8(offset);
    })();
    grow(extensionsAt, 2);
    expect(readClientHello(twice).state).toBe('not_tls');
  });

  it('is read or refused, whatever it is', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 300 }), (at, byte, bytes) => {
        const changed = Buffer.from(hello);
        changed[at % changed.length] = byte;
        for (const input of [changed, Buffer.from(bytes), Buffer.concat([Buffer.from([22, 3, 1]), bytes])]) {
          expect(['incomplete', 'not_tls', 'read']).toContain(readClientHello(input).state);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

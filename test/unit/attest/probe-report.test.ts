import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, test } from 'vitest';

import { ATTEMPTS } from '../../../src/attest/attempts.js';
import { parseProbe } from '../../../src/attest/probe-report.js';
import { GVISOR_PROBE, RUNC_PROBE } from '../../fixtures/probe-output.js';

const parse = (text: string) => parseProbe(Buffer.from(text));

describe('what a probe prints', () => {
  it('is read line by line', () => {
    const report = parse(RUNC_PROBE);
    expect(report.values.get('capabilities bounding')).toBe('0000000000000000');
    expect(report.values.get('limit nofile')).toBe('4096 4096');
    expect(report.values.get('cgroup pids/pids.max')).toBe('256');
    expect(report.interfaces).toEqual(['lo']);
    expect(report.mounts).toHaveLength(11);
    expect(report.mounts[0]).toEqual({ root: '/', target: '/', writable: true, type: 'overlay' });
    expect(report.paths.get('/proc/keys')).toBe('empty');
    expect(report.attempts.get('socket_vsock')).toBe('ok');
  });

  it('may be from gVisor, whose mounts have an empty field', () => {
    expect(parse(GVISOR_PROBE).mounts.at(-1)).toEqual({ root: '/', target: '/tmp', writable: true, type: 'tmpfs' });
  });

  it('has spaces in names of mounts as the kernel writes them', () => {
    const line = String.raw`mount 1 2 0:3 /a\040b /c\134d ro - ext4`;
    expect(parse(`${line}\nend\n`).mounts).toEqual([
      { root: '/a b', target: String.raw`/c\d`, writable: false, type: 'ext4' },
    ]);
  });

  test.each([
    ['nothing', ''],
    ['no end', RUNC_PROBE.replace('end\n', '')],
    ['half a line', RUNC_PROBE.slice(0, -2)],
    ['more after its end', `${RUNC_PROBE}seccomp 2\n`],
    ['a line of no name', `hello\nend\n`],
    ['the same line twice', `seccomp 2\nseccomp 0\nend\n`],
    ['the same attempt twice', `attempt mount EPERM\nattempt mount ok\nend\n`],
    ['capabilities that are no number', `capabilities effective 00000000000000xz\nend\n`],
    ['an answer that is no errno', `attempt mount <b>EPERM</b>\nend\n`],
    ['a mount that is none', `mount / /\nend\n`],
    ['an interface with a long name', `interface ${'x'.repeat(16)}\nend\n`],
    ['an escape in a value', `kernel \u001B[2J\nend\n`],
    ['a line without end', `path readable /${'x'.repeat(5000)}\nend\n`],
    ['too many lines', `${'interface lo\n'.repeat(3000)}end\n`],
    ['bytes that are no text', '\u0000\u0001\u0002'],
  ])('is refused with %s', (_what, text) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ code: 'channel_failed' }) as Error);
  });
});

describe('the attempts', () => {
  it('are those that the warden makes, by the same names', () => {
    const path = fileURLToPath(new URL('../../../warden/src/builtin/attempts.c', import.meta.url));
    const names = [...readFileSync(path, 'utf8').matchAll(/^\t\{ "(\w+)", \w+ \},$/gm)].map(([, name]) => name);
    expect(ATTEMPTS.map(({ name }) => name)).toEqual(names);
    expect(names.length).toBeGreaterThan(20);
  });
});

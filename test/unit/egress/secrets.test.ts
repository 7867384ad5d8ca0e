import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';

import { planSecrets, toTraits, toVariables } from '../../../src/egress/secrets.js';
import { createOptionsSchema, parseInput, type CreateOptions } from '../../../src/schemas.js';

const VALUE = 'ghp_RealValue';
const secret = { value: VALUE, hosts: ['API.test'] };
const network = { egress: { allow: ['api.test', '*.cdn.test:443', 'plain.test:80', '*.deep.test'] } };

const plan = (options: CreateOptions) => planSecrets(parseInput(createOptionsSchema, options, 'create options'));

/** What is thrown, whole. */
function faultOf(act: () => unknown): { message: string; issues: { path: unknown }[] } {
  try {
    act();
  } catch (error) {
    return error as never;
  }
  throw new Error('nothing was thrown');
}

describe('a secret that is asked for', () => {
  it('has a placeholder that is its own, and shows its value to nobody', () => {
    const secrets = { ONE: secret, TWO: { ...secret, interceptTls: true } };
    const planned = plan({ network, secrets });
    expect(planned.map(({ value }) => value.reveal())).toEqual([VALUE, VALUE]);
    expect(new Set([...planned, ...plan({ network, secrets })].map(({ placeholder }) => placeholder)).size).toBe(4);
    expect(Object.values(toVariables(planned))).toEqual(planned.map(({ placeholder }) => placeholder));
    expect(toTraits(planned)).toEqual({
      ONE: { hosts: ['api.test'], interceptTls: false },
      TWO: { hosts: ['api.test'], interceptTls: true },
    });
    const parsed = parseInput(createOptionsSchema, { network, secrets }, 'create options');
    for (const each of [planned, parsed]) {
      expect(JSON.stringify(each)).not.toContain(VALUE);
      expect(inspect(each, { depth: 10, showHidden: true })).not.toContain(VALUE);
    }
  });

  it.each<[string, Record<string, unknown>, boolean]>([
    ['a host that is allowed', {}, true],
    ['over TLS, at its port', { hosts: ['a.cdn.test'], interceptTls: true }, true],
    ['over HTTP where only TLS is allowed', { hosts: ['a.cdn.test'] }, false],
    ['over TLS where only HTTP is allowed', { hosts: ['plain.test'], interceptTls: true }, false],
    ['a port that is allowed', { hosts: ['plain.test:80'] }, true],
    ['another port', { hosts: ['api.test:8080'] }, false],
    ['less than what a wildcard allows', { hosts: ['*.a.deep.test'] }, true],
    ['more than what is allowed', { hosts: ['*.test'] }, false],
    ['a host that is not allowed', { hosts: ['evil.test'] }, false],
  ])('may go to %s: %#', (_what, more, may) => {
    const act = () => plan({ network, secrets: { KEY: { ...secret, ...more } } });
    if (may) expect(act()).toHaveLength(1);
    else
      expect(faultOf(act)).toMatchObject({
        code: 'validation_failed',
        issues: [{ path: ['secrets', 'KEY', 'hosts', 0] }],
      });
  });

  it('needs egress, and a name that is no other variable', () => {
    for (const other of ['none', 'bridge', undefined] as const) {
      expect(faultOf(() => plan({ network: other, secrets: { KEY: secret } })).message).toContain('egress');
    }
    expect(faultOf(() => plan({ network, env: { KEY: 'x' }, secrets: { KEY: secret } })).issues[0]?.path).toEqual([
      'env',
      'KEY',
    ]);
  });

  it.each<[string, string, Record<string, unknown>]>([
    ['a value with a line break', 'KEY', { value: `${VALUE}\r\nX: y` }],
    ['a value with NUL', 'KEY', { value: `${VALUE}\0` }],
    ['a value that is no ASCII', 'KEY', { value: `${VALUE}é` }],
    ['a value with a space at its end', 'KEY', { value: `${VALUE} ` }],
    ['a short value', 'KEY', { value: 'RealVal' }],
    ['a long value', 'KEY', { value: VALUE.repeat(1000) }],
    ['no host', 'KEY', { hosts: [] }],
    ['every host', 'KEY', { hosts: ['*'] }],
    ['every host at a port', 'KEY', { hosts: ['*:443'] }],
    ['an address', 'KEY', { hosts: ['10.0.0.1'] }],
    ['something else', 'KEY', { more: VALUE }],
    ['no name', '', {}],
    ['what is no name', 'A-B', {}],
    ['a name of ours', 'SANDYARD_X', {}],
  ])('is refused with %s, and nothing tells the value', (_what, name, more) => {
    const fault = faultOf(() => plan({ network, secrets: { [name]: { ...secret, ...more } } }));
    expect(fault).toMatchObject({ code: 'validation_failed' });
    expect(inspect(fault, { depth: 10 })).not.toContain('RealVal');
  });

  it('is one of sixteen at the most', () => {
    const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, at) => [`KEY_${at}`, secret]));
    expect(plan({ network, secrets: many(16) })).toHaveLength(16);
    expect(faultOf(() => plan({ network, secrets: many(17) }))).toMatchObject({ code: 'validation_failed' });
  });
});

import { createHmac, generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { SignJWT, UnsecuredJWT, type JWTPayload } from 'jose';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';

import { Access } from '../../../src/access/access.js';
import { Tokens } from '../../../src/access/tokens.js';
import type { AccessSettings } from '../../../src/access-settings.js';
import { isSandyardError, type SandyardError } from '../../../src/errors.js';

const SECRET = Buffer.from('a-secret-of-more-than-32-bytes-as-it-must-be');
const state = mkdtempSync(join(tmpdir(), 'sandyard-state-'));
afterAll(() => rmSync(state, { recursive: true }));
afterEach(() => vi.useRealTimers());

const SETTINGS: AccessSettings = {
  tokenSecret: SECRET,
  maxTokenMs: 3_600_000,
  stateDirectory: state,
  apiKeys: [],
  allowOrigins: [],
  allowOriginPattern: undefined,
  trustedProxies: [],
  ratePerOwner: undefined,
  ratePerAddress: undefined,
};

const tokens = new Tokens(SETTINGS, 'default');
const newAccess = (settings: Partial<AccessSettings> = {}) =>
  new Access({ settings: { ...SETTINGS, ...settings }, token: undefined, owner: 'default' });

async function refusal(promise: Promise<unknown>): Promise<SandyardError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (isSandyardError(error)) return error;
  throw new Error(`It was not refused: ${String(error)}`);
}

const now = () => Math.floor(Date.now() / 1000);

/** As the service would make it, but for what is given. */
function claims(given: Record<string, unknown> = {}): JWTPayload {
  const jti = 'abcdefgh12345678';
  const common = { iss: 'sandyard', aud: 'sandyard:default', sub: 'alice', iat: now(), exp: now() + 60, jti };
  return { ...common, scope: 'read exec', ...given };
}

function sign(payload: JWTPayload, header: Record<string, unknown> = {}, key: Uint8Array = SECRET): Promise<string> {
  return new SignJWT(payload).setProtectedHeader({ alg: 'HS256', typ: 'sandyard+jwt', ...header }).sign(key);
}

describe('a token', () => {
  it('says whose it is and what it is good for, for half an hour', async () => {
    const { token, id, expiresAt } = await tokens.issue({
      owner: 'alice',
      scopes: ['read', 'exec', 'read'],
      sandbox: 'sb1',
    });
    expect(await tokens.read(token)).toEqual({
      owner: 'alice',
      scopes: ['read', 'exec'],
      sandbox: 'sb1',
      via: 'token',
      name: id,
      once: undefined,
    });
    expect(Math.round((expiresAt.getTime() - Date.now()) / 60_000)).toBe(30);
  });

  it('is as one that is made by hand', async () => {
    expect(await tokens.read(await sign(claims()))).toMatchObject({ owner: 'alice', scopes: ['read', 'exec'] });
  });

  it.each<[what: string, request: object, code: string]>([
    ['too long', { ttlMs: 3_600_001 }, 'limit_exceeded'],
    ['no time', { ttlMs: 0 }, 'limit_exceeded'],
    ['no owner', { owner: 'Not one' }, 'validation_failed'],
    ['no scope', { scopes: [] }, 'validation_failed'],
    ['an unknown scope', { scopes: ['root'] }, 'validation_failed'],
    ['no sandbox', { sandbox: '../x' }, 'validation_failed'],
  ])('is not issued for %s', async (_, request, code) => {
    expect((await refusal(tokens.issue({ owner: 'alice', scopes: ['read'], ...request }))).code).toBe(code);
  });

  it('is not issued without a secret', async () => {
    const error = await refusal(
      new Tokens({ ...SETTINGS, tokenSecret: undefined }, 'default').issue({ owner: 'a', scopes: ['read'] }),
    );
    expect(error).toMatchObject({ code: 'forbidden', hint: expect.stringContaining('SANDBOX_TOKEN_SECRET') as string });
  });
});

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;

/** By hand, as no library would. */
function byHand(header: object, payload: object, key: Uint8Array = SECRET): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${part(header)}.${part(payload)}`;
  return `${input}.${createHmac('sha256', key).update(input).digest('base64url')}`;
}

describe('refused is', () => {
  it.each<[what: string, make: () => string | Promise<string>, reason: string]>([
    ['one of another secret', () => sign(claims(), {}, Buffer.from('x'.repeat(40))), 'signature'],
    ['one that has expired', () => sign(claims({ exp: now() - 1, iat: now() - 100 })), 'expired'],
    ['one that is not valid yet', () => sign(claims({ nbf: now() + 60 })), 'not_yet_valid'],
    ['one from the future', () => sign(claims({ iat: now() + 120, exp: now() + 180 })), 'lifetime'],
    ['one that lasts too long', () => sign(claims({ exp: now() + 7200 })), 'lifetime'],
    ['one without an end', () => sign(claims({ exp: undefined })), 'claims'],
    ['one without an id', () => sign(claims({ jti: undefined })), 'claims'],
    ['one without an owner', () => sign(claims({ sub: undefined })), 'claims'],
    ['one whose owner could not be one', () => sign(claims({ sub: 'Bob\n' })), 'claims'],
    ['one without scopes', () => sign(claims({ scope: undefined })), 'claims'],
    ['one with an empty scope', () => sign(claims({ scope: '' })), 'claims'],
    ['one with an unknown scope', () => sign(claims({ scope: 'read root' })), 'claims'],
    ['one with a claim that nobody knows', () => sign(claims({ only_on: 'sundays' })), 'claims'],
    ['one from another issuer', () => sign(claims({ iss: 'other' })), 'claims'],
    ['one for another service', () => sign(claims({ aud: 'sandyard:other' })), 'claims'],
    ['one of another type', () => sign(claims(), { typ: 'JWT' }), 'claims'],
    ['one of no type', () => sign(claims(), { typ: undefined }), 'claims'],
    [
      'one of another algorithm of the same key',
      () => new SignJWT(claims()).setProtectedHeader({ alg: 'HS512', typ: 'sandyard+jwt' }).sign(SECRET),
      'algorithm',
    ],
    [
      'one by RSA',
      () => new SignJWT(claims()).setProtectedHeader({ alg: 'RS256', typ: 'sandyard+jwt' }).sign(rsa),
      'algorithm',
    ],
    [
      'one that says RS256 and is signed with the secret',
      () => byHand({ alg: 'RS256', typ: 'sandyard+jwt' }, claims()),
      'algorithm',
    ],
    ['one by no algorithm', () => new UnsecuredJWT(claims()).encode(), 'algorithm'],
    ['one that says none and is signed', () => byHand({ alg: 'none', typ: 'sandyard+jwt' }, claims()), 'algorithm'],
    ['one that says None', () => byHand({ alg: 'None', typ: 'sandyard+jwt' }, claims()), 'algorithm'],
    [
      'one with a critical header',
      () => byHand({ alg: 'HS256', typ: 'sandyard+jwt', crit: ['x'], x: 1 }, claims()),
      'malformed',
    ],
    [
      'one without its signature',
      async () => `${(await sign(claims())).split('.').slice(0, 2).join('.')}.`,
      'signature',
    ],
    ['text', () => 'a.b.c', 'malformed'],
    ['one that is too long', async () => `${await sign(claims())}${'x'.repeat(9000)}`, 'malformed'],
  ])('%s', async (_, make, reason) => {
    const error = await refusal(tokens.read(await make()));
    expect(error).toMatchObject({ code: 'unauthorized', details: { refused: 'token', reason } });
    expect(error.message).toMatch(/^The token (is not valid|has expired|lasts longer)/);
  });

  it('every change of one letter', async () => {
    const { token } = await tokens.issue({ owner: 'alice', scopes: ['read'] });
    const last = token.length - 1;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(last),
        fc.constantFrom('A', 'Z', 'a', 'z', '0', '9', '-', '_', '.'),
        async (at, letter) => {
          const changed = `${token.slice(0, at)}${letter}${token.slice(at + 1)}`;
          // The last letter of a signature has bits that mean nothing.
          if (changed === token || at === last) return;
          expect((await refusal(tokens.read(changed))).code).toBe('unauthorized');
        },
      ),
      { numRuns: 500 },
    );
  });

  it('whatever is no token', async () => {
    const part = fc.oneof(
      fc.string(),
      fc.base64String(),
      fc.json().map((text) => Buffer.from(text).toString('base64url')),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 5 }), async (parts) => {
        expect((await refusal(tokens.read(parts.join('.')))).code).toBe('unauthorized');
        expect((await refusal(tokens.readLink(parts.join('.')))).code).toBe('unauthorized');
        expect((await refusal(newAccess().identify(parts.join('.')))).code).toBe('unauthorized');
      }),
      { numRuns: 500 },
    );
  });

  it('a link in the place of a token, and a token in that of a link', async () => {
    const link = await tokens.issueLink({ owner: 'alice', sandbox: 'sb1', method: 'GET', path: '/a' });
    const { token } = await tokens.issue({ owner: 'alice', scopes: ['files'], sandbox: 'sb1' });
    expect(await tokens.readLink(link.token)).toMatchObject({ sandbox: 'sb1', file: { method: 'GET', path: '/a' } });
    expect((await refusal(tokens.read(link.token))).details['reason']).toBe('claims');
    expect((await refusal(tokens.readLink(token))).details['reason']).toBe('claims');
  });

  it('one as soon as it has expired', async () => {
    const { token, expiresAt } = await tokens.issue({ owner: 'alice', scopes: ['read'], ttlMs: 5000 });
    vi.useFakeTimers({ now: expiresAt.getTime() - 1, toFake: ['Date'] });
    await tokens.read(token);
    vi.setSystemTime(expiresAt);
    expect((await refusal(tokens.read(token))).details['reason']).toBe('expired');
  });
});

describe('a token for a single use', () => {
  const once = () => tokens.issue({ owner: 'alice', scopes: ['exec'], singleUse: true });

  it('is spent once, also after a restart, and by two services at once', async () => {
    const { token } = await once();
    const access = newAccess();
    await access.spend(await access.identify(token));
    for (const later of [access, newAccess()]) {
      const error = await refusal(later.spend(await later.identify(token)));
      expect(error).toMatchObject({ code: 'unauthorized', details: { reason: 'replayed' } });
    }
    const other = await once();
    const parties = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const party = newAccess();
        return party.spend(await party.identify(other.token)).then(
          () => 'spent',
          () => 'refused',
        );
      }),
    );
    expect(parties.filter((result) => result === 'spent')).toHaveLength(1);
  });

  it('is neither issued nor taken where nothing can be noted', async () => {
    const { token } = await once();
    const without = newAccess({ stateDirectory: undefined });
    expect((await refusal(without.identify(token))).details['reason']).toBe('no_state');
    const error = await refusal(without.tokens.issue({ owner: 'alice', scopes: ['exec'], singleUse: true }));
    expect(error).toMatchObject({ code: 'forbidden', hint: expect.stringContaining('SANDBOX_STATE_DIR') as string });
  });

  it('is refused, not let through, where it can not be noted', async () => {
    const gone = mkdtempSync(join(tmpdir(), 'sandyard-state-'));
    const access = newAccess({ stateDirectory: join(gone, 'file') });
    rmSync(gone, { recursive: true });
    writeFileSync(gone, '');
    const { token } = await once();
    expect((await refusal(access.spend(await access.identify(token)))).code).toBe('config_invalid');
    rmSync(gone);
  });

  it('is forgotten long after it has expired', async () => {
    const { token } = await once();
    const access = newAccess();
    await access.spend(await access.identify(token));
    const before = readdirSync(join(state, 'used-tokens')).length;
    vi.useFakeTimers({ now: Date.now() + 3 * 24 * 3_600_000, toFake: ['Date'] });
    const later = await once();
    const restarted = newAccess();
    await restarted.spend(await restarted.identify(later.token));
    expect(before).toBeGreaterThan(1);
    expect(readdirSync(join(state, 'used-tokens'))).toHaveLength(1);
  });
});

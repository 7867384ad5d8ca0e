import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import {
  exampleEnvironment,
  isLoopback,
  readConfig,
  readEngineEnvironment,
  readManagerDefaults,
} from '../../src/config.js';
import { SandyardError } from '../../src/errors.js';

const MIB = 1024 ** 2;
const HOUR = 3_600_000;
const TOKEN = 'correct-horse-battery';
const SECRET = 'a-secret-of-more-than-32-bytes-as-it-must-be';

const directory = mkdtempSync(join(tmpdir(), 'sandyard-config-'));
afterAll(() => rmSync(directory, { recursive: true }));

function tokenFile(name: string, content: string): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

describe('readConfig', () => {
  it('needs no variable', () => {
    expect(readConfig({})).toEqual({
      host: '127.0.0.1',
      port: 8888,
      token: undefined,
      access: {
        tokenSecret: undefined,
        maxTokenMs: 24 * HOUR,
        stateDirectory: undefined,
        apiKeys: [],
        allowOrigins: [],
        allowOriginPattern: undefined,
        trustedProxies: [],
        ratePerOwner: undefined,
        ratePerAddress: undefined,
      },
      allowedHosts: [],
      owner: 'default',
      image: 'sandyard-sandbox:latest',
      limits: {
        memoryBytes: 1024 * MIB,
        maxMemoryBytes: 8192 * MIB,
        cpus: 1,
        maxCpus: 8,
        pids: 256,
        maxPids: 4096,
        nofile: 4096,
        maxNofile: 65_536,
        diskBytes: 1792 * MIB,
        maxDiskBytes: 16_384 * MIB,
        inodes: 262_144,
        maxInodes: 4_194_304,
        ttlMs: HOUR,
        maxLifetimeMs: 24 * HOUR,
        stoppedRetentionMs: 24 * HOUR,
        execTimeoutMs: 300_000,
      },
      admission: {
        ceilings: {
          owner: { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity },
          manager: { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity },
          tenant: { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity },
        },
        atOnce: 4,
        queue: 64,
        floor: { memoryBytes: 512 * MIB, diskBytes: 1024 * MIB },
      },
      isolation: {
        profile: 'standard',
        runtime: undefined,
        allowedProfiles: undefined,
        allowedNetworks: undefined,
        allowedImages: undefined,
        allowedRuntimes: undefined,
      },
      pool: { size: 0, max: 0 },
      egress: {
        allowedDomains: [],
        subnets: '10.217.0.0/16',
        dns: [],
        network: undefined,
        unsafeDestinations: [],
        authorities: [],
      },
      socketDirectory: 'auto',
      reaper: { schedule: '*/30 * * * * *', dryRun: false },
      maxUploadBytes: 2048 * MIB,
      logLevel: 'info',
      warnings: [],
    });
  });

  it.each<[name: string, value: string, path: string, expected: unknown]>([
    ['HOST', '::1', 'host', '::1'],
    ['PORT', '0', 'port', 0],
    ['SANDBOX_TOKEN', TOKEN, 'token', TOKEN],
    ['SANDBOX_TOKEN_SECRET', SECRET, 'access.tokenSecret', Buffer.from(SECRET)],
    ['SANDBOX_TOKEN_MAX_AGE', '1h', 'access.maxTokenMs', HOUR],
    ['SANDBOX_STATE_DIR', directory, 'access.stateDirectory', directory],
    ['SANDBOX_SOCKET_DIR', '/srv/sockets', 'socketDirectory', '/srv/sockets'],
    ['SANDBOX_RATE_LIMIT_OWNER', '600', 'access.ratePerOwner', 600],
    ['SANDBOX_RATE_LIMIT_ADDRESS', '60', 'access.ratePerAddress', 60],
    [
      'SANDBOX_TRUSTED_PROXIES',
      'loopback, 10.0.0.0/8,fd00::/8',
      'access.trustedProxies',
      ['loopback', '10.0.0.0/8', 'fd00::/8'],
    ],
    [
      'SANDBOX_ALLOW_ORIGINS',
      'https://a.example,http://b.example:8080',
      'access.allowOrigins',
      ['https://a.example', 'http://b.example:8080'],
    ],
    [
      'SANDBOX_ALLOW_ORIGIN_REGEX',
      'https://[a-z0-9-]+[.]a[.]example',
      'access.allowOriginPattern',
      expect.any(Function),
    ],
    ['SANDBOX_ALLOWED_HOSTS', 'a.example, ,b.example:80', 'allowedHosts', ['a.example', 'b.example:80']],
    ['SANDBOX_OWNER', 'team-1', 'owner', 'team-1'],
    ['SANDBOX_IMAGE', 'ubuntu:24.04', 'image', 'ubuntu:24.04'],
    ['SANDBOX_PROFILE', 'strict', 'isolation.profile', 'strict'],
    ['SANDBOX_RUNTIME', 'auto', 'isolation.runtime', 'auto'],
    ['SANDBOX_ALLOWED_PROFILES', 'standard, strict', 'isolation.allowedProfiles', ['standard', 'strict']],
    ['SANDBOX_ALLOWED_NETWORKS', 'none', 'isolation.allowedNetworks', ['none']],
    [
      'SANDBOX_ALLOWED_IMAGES',
      'ubuntu:*,a.example:5000/b/*',
      'isolation.allowedImages',
      ['ubuntu:*', 'a.example:5000/b/*'],
    ],
    ['SANDBOX_ALLOWED_RUNTIMES', 'runc,runsc', 'isolation.allowedRuntimes', ['runc', 'runsc']],
    ['SANDBOX_MEMORY', '64m', 'limits.memoryBytes', 64 * MIB],
    ['SANDBOX_MAX_MEMORY', '2g', 'limits.maxMemoryBytes', 2048 * MIB],
    ['SANDBOX_CPUS', '0.5', 'limits.cpus', 0.5],
    ['SANDBOX_MAX_CPUS', '2', 'limits.maxCpus', 2],
    ['SANDBOX_PIDS', '8', 'limits.pids', 8],
    ['SANDBOX_MAX_PIDS', '512', 'limits.maxPids', 512],
    ['SANDBOX_NOFILE', '64', 'limits.nofile', 64],
    ['SANDBOX_DISK', '64m', 'limits.diskBytes', 64 * MIB],
    ['SANDBOX_INODES', '1000', 'limits.inodes', 1000],
    ['SANDBOX_MAX_NOFILE', '8192', 'limits.maxNofile', 8192],
    ['SANDBOX_MAX_SANDBOXES', '1', 'admission.ceilings.owner.sandboxes', 1],
    ['SANDBOX_MAX_TOTAL_MEMORY', '16g', 'admission.ceilings.owner.memoryBytes', 16_384 * MIB],
    ['SANDBOX_MAX_TOTAL_CPUS', '1.5', 'admission.ceilings.owner.cpus', 1.5],
    ['SANDBOX_MAX_TOTAL_PIDS', '4096', 'admission.ceilings.owner.pids', 4096],
    ['SANDBOX_MAX_SANDBOXES', '1', 'admission.ceilings.manager.sandboxes', Infinity],
    ['SANDBOX_TENANT_MAX_SANDBOXES', '2', 'admission.ceilings.tenant.sandboxes', 2],
    ['SANDBOX_TENANT_MAX_MEMORY', '1g', 'admission.ceilings.tenant.memoryBytes', 1024 * MIB],
    ['SANDBOX_TENANT_MAX_CPUS', '1.5', 'admission.ceilings.tenant.cpus', 1.5],
    ['SANDBOX_TENANT_MAX_PIDS', '512', 'admission.ceilings.tenant.pids', 512],
    ['SANDBOX_CREATE_CONCURRENCY', '1', 'admission.atOnce', 1],
    ['SANDBOX_CREATE_QUEUE', '0', 'admission.queue', 0],
    ['SANDBOX_KEEP_FREE_MEMORY', '0', 'admission.floor.memoryBytes', 0],
    ['SANDBOX_KEEP_FREE_DISK', '10g', 'admission.floor.diskBytes', 10_240 * MIB],
    ['SANDBOX_POOL_SIZE', '3', 'pool', { size: 3, max: 3 }],
    ['SANDBOX_POOL_MAX', '5', 'pool', { size: 0, max: 5 }],
    ['SANDBOX_TTL', '90s', 'limits.ttlMs', 90_000],
    ['SANDBOX_MAX_LIFETIME', '2h', 'limits.maxLifetimeMs', 2 * HOUR],
    ['SANDBOX_STOPPED_RETENTION', '1d', 'limits.stoppedRetentionMs', 24 * HOUR],
    ['SANDBOX_REAPER_SCHEDULE', '* * * * *', 'reaper.schedule', '* * * * *'],
    ['SANDBOX_REAPER_DRY_RUN', 'true', 'reaper.dryRun', true],
    ['SANDBOX_EXEC_TIMEOUT', '1s', 'limits.execTimeoutMs', 1000],
    ['SANDBOX_MAX_UPLOAD', '32m', 'maxUploadBytes', 32 * MIB],
    ['SANDBOX_LOG_LEVEL', 'trace', 'logLevel', 'trace'],
  ])('reads %s=%s', (name, value, path, expected) => {
    expect(readConfig({ [name]: value })).toHaveProperty(path, expected);
  });

  it('takes an empty variable for one that is not set', () => {
    expect(readConfig({ PORT: '', SANDBOX_TOKEN: '', SANDBOX_MEMORY: '' })).toEqual(readConfig({}));
  });

  it.each([
    ['PORT', 'http'],
    ['PORT', '65536'],
    ['PORT', '-1'],
    ['PORT', '80.5'],
    ['SANDBOX_TOKEN', 'short'],
    ['SANDBOX_TOKEN_SECRET', 'x'.repeat(31)],
    ['SANDBOX_RATE_LIMIT_OWNER', '0'],
    ['SANDBOX_TRUSTED_PROXIES', 'everybody'],
    ['SANDBOX_TRUSTED_PROXIES', '10.0.0.0/33'],
    ['SANDBOX_ALLOW_ORIGINS', '*'],
    ['SANDBOX_ALLOW_ORIGINS', 'https://a.example/'],
    ['SANDBOX_ALLOW_ORIGINS', 'null'],
    ['SANDBOX_ALLOW_ORIGIN_REGEX', '('],
    ['SANDBOX_ALLOW_ORIGIN_REGEX', '(.{0,9}.{0,9}){0,100}'],
    ['SANDBOX_OWNER', 'Me & you'],
    ['SANDBOX_IMAGE', 'not an image'],
    ['SANDBOX_PROFILE', 'lax'],
    ['SANDBOX_RUNTIME', 'not a name'],
    ['SANDBOX_ALLOWED_PROFILES', 'standard,lax'],
    ['SANDBOX_ALLOWED_PROFILES', ','],
    ['SANDBOX_ALLOWED_NETWORKS', 'host'],
    ['SANDBOX_ALLOWED_IMAGES', 'ubuntu:(.*)'],
    ['SANDBOX_ALLOWED_RUNTIMES', ','],
    ['SANDBOX_MEMORY', 'lots'],
    ['SANDBOX_MEMORY', '1m'],
    ['SANDBOX_CPUS', '-1'],
    ['SANDBOX_CPUS', '0'],
    ['SANDBOX_PIDS', '7'],
    ['SANDBOX_NOFILE', '63'],
    ['SANDBOX_MAX_SANDBOXES', '0'],
    ['SANDBOX_MAX_TOTAL_MEMORY', '0'],
    ['SANDBOX_CREATE_CONCURRENCY', '0'],
    ['SANDBOX_CREATE_QUEUE', '-1'],
    ['SANDBOX_KEEP_FREE_DISK', '10%'],
    ['SANDBOX_POOL_SIZE', 'many'],
    ['SANDBOX_TTL', '3600'],
    ['SANDBOX_TTL', '999ms'],
    ['SANDBOX_MAX_LIFETIME', 'forever'],
    ['SANDBOX_REAPER_DRY_RUN', 'yes'],
    ['SANDBOX_EXEC_TIMEOUT', '0s'],
    ['SANDBOX_MAX_UPLOAD', 'none'],
    ['SANDBOX_LOG_LEVEL', 'loud'],
  ])('refuses %s=%s by name', (name, value) => {
    const error = thrownBy(() => readConfig({ [name]: value }));
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect(error.message).toContain(name);
    expect(error.hint).toContain('.env.example');
  });

  it.each([
    ['SANDBOX_STATE_DIR', '/nonexistent', "can't be written to"],
    ['SANDBOX_STATE_DIR', '/dev/null', "can't be written to"],
    ['SANDBOX_API_KEYS_FILE', '/nonexistent', "can't be read"],
    ['SANDBOX_TOKEN_SECRET_FILE', '/nonexistent', "can't be read"],
  ])('refuses %s=%s', (name, value, why) => {
    const error = thrownBy(() => readConfig({ [name]: value }));
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect(error.message).toMatch(`${name} is ${value}, which ${why}`);
  });

  it('never tells the token, not even a bad one', () => {
    const { message, hint } = thrownBy(() => readConfig({ SANDBOX_TOKEN: 'hunter2-hunter2' }));
    expect(`${message} ${hint}`).not.toContain('hunter2');
  });

  it.each([
    ['SANDBOX_PROFILE', 'dev', 'SANDBOX_ALLOWED_PROFILES', 'standard,strict'],
    ['SANDBOX_RUNTIME', 'runc', 'SANDBOX_ALLOWED_RUNTIMES', 'runsc'],
  ])('refuses %s=%s, which %s does not name', (name, value, list, allowed) => {
    const { code, message } = thrownBy(() => readConfig({ [name]: value, [list]: allowed }));
    expect({ code, message }).toEqual({ code: 'config_invalid', message: `${name} is not one that ${list} allows.` });
  });

  it('takes a default runtime of auto for one that is allowed', () => {
    const env = { SANDBOX_RUNTIME: 'auto', SANDBOX_ALLOWED_RUNTIMES: 'runsc' };
    expect(readConfig(env)).toHaveProperty('isolation.runtime', 'auto');
  });

  it.each([
    ['SANDBOX_MEMORY', '9g', 'SANDBOX_MAX_MEMORY'],
    ['SANDBOX_CPUS', '9', 'SANDBOX_MAX_CPUS'],
    ['SANDBOX_PIDS', '4097', 'SANDBOX_MAX_PIDS'],
    ['SANDBOX_NOFILE', '65537', 'SANDBOX_MAX_NOFILE'],
    ['SANDBOX_TTL', '25h', 'SANDBOX_MAX_LIFETIME'],
    ['SANDBOX_MEMORY', '2g', 'SANDBOX_MAX_TOTAL_MEMORY', '1g'],
    ['SANDBOX_CPUS', '2', 'SANDBOX_MAX_TOTAL_CPUS', '1'],
    ['SANDBOX_PIDS', '65', 'SANDBOX_MAX_TOTAL_PIDS', '64'],
    ['SANDBOX_POOL_SIZE', '2', 'SANDBOX_POOL_MAX', '1'],
  ])('refuses %s=%s, above the ceiling %s', (name, value, ceiling, limit?: string) => {
    const error = thrownBy(() => readConfig({ [name]: value, ...(limit !== undefined && { [ceiling]: limit }) }));
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect(error.message).toContain(name);
    expect(error.message).toContain(ceiling);
  });

  it('warns of a variable that it does not know, and of no other program’s', () => {
    const { warnings } = readConfig({ SANDBOX_MEMROY: '2g', SANDBOXED: '1', PATH: '/bin' });
    expect(warnings).toEqual([expect.stringContaining('SANDBOX_MEMROY')]);
  });

  describe('with an address that others can reach', () => {
    it.each(['0.0.0.0', '::', '192.0.2.1', 'example.org', '127.0.0.1.example.org'])(
      'refuses %s without a token',
      (HOST) => {
        const error = thrownBy(() => readConfig({ HOST }));
        expect(error).toMatchObject({ code: 'config_invalid' });
        expect(error.message).toContain(HOST);
        expect(error.hint).toContain('SANDBOX_TOKEN');
      },
    );

    it('takes it with a token', () => {
      expect(readConfig({ HOST: '0.0.0.0', SANDBOX_TOKEN: TOKEN })).toMatchObject({ host: '0.0.0.0', token: TOKEN });
    });

    it('takes it with a secret to sign tokens with', () => {
      expect(readConfig({ HOST: '0.0.0.0', SANDBOX_TOKEN_SECRET: SECRET }).host).toBe('0.0.0.0');
    });

    it('takes it with a token in a file', () => {
      const SANDBOX_TOKEN_FILE = tokenFile('good', `${TOKEN}\n`);
      expect(readConfig({ HOST: '0.0.0.0', SANDBOX_TOKEN_FILE })).toMatchObject({ token: TOKEN });
    });
  });

  it.each([
    ['is missing', () => join(directory, 'none')],
    ['is empty', () => tokenFile('empty', '\n')],
    ['is too short', () => tokenFile('short', 'hunter2')],
  ])('refuses a token file that %s', (_, make) => {
    const SANDBOX_TOKEN_FILE = make();
    const error = thrownBy(() => readConfig({ SANDBOX_TOKEN_FILE }));
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect(error.message).toContain(`SANDBOX_TOKEN_FILE is ${SANDBOX_TOKEN_FILE}`);
    expect(error.message).not.toContain('hunter2');
  });
});

describe('isLoopback', () => {
  it.each([
    ['127.0.0.1', true],
    ['127.8.8.8', true],
    ['localhost', true],
    ['::1', true],
    ['[::1]', true],
    ['0.0.0.0', false],
    ['::', false],
    ['10.0.0.1', false],
    ['localhost.example.org', false],
    ['127.0.0.1.example.org', false],
  ])('%s: %s', (host, expected) => {
    expect(isLoopback(host)).toBe(expected);
  });
});

describe('readManagerDefaults', () => {
  it('reads image, owner, limits, ceilings and the pool', () => {
    const env = { SANDBOX_IMAGE: 'x', SANDBOX_OWNER: 'me', SANDBOX_TTL: '2m', SANDBOX_CREATE_QUEUE: '1' };
    expect(readManagerDefaults({ ...env, SANDBOX_POOL_SIZE: '2' })).toMatchObject({
      image: 'x',
      owner: 'me',
      limits: { ttlMs: 120_000 },
      admission: { queue: 1 },
      pool: { size: 2 },
    });
  });

  it('refuses what it reads by name', () => {
    expect(thrownBy(() => readManagerDefaults({ SANDBOX_TTL: 'x' })).message).toContain('SANDBOX_TTL');
  });

  it.each([
    ['PORT', '/run/some.sock'],
    ['SANDBOX_TOKEN', 'short'],
    ['SANDBOX_LOG_LEVEL', 'loud'],
  ])("doesn't mind %s=%s, which is the service's or another program's", (name, value) => {
    expect(() => readManagerDefaults({ [name]: value })).not.toThrow();
  });
});

it("reads Docker's own variables for the engine, and no more", () => {
  const env = { DOCKER_HOST: 'unix:///x', DOCKER_TLS_VERIFY: '1', DOCKER_CERT_PATH: '/certs', HOME: '/root' };
  expect(readEngineEnvironment({ ...env, SECRET: 'x' })).toEqual({ ...env, XDG_RUNTIME_DIR: undefined });
});

describe('.env.example', () => {
  it('is what the table of variables says', async () => {
    await expect(exampleEnvironment()).toMatchFileSnapshot('../../.env.example');
  });

  it('gives defaults that stand', () => {
    const lines = exampleEnvironment().matchAll(/^#([A-Z_]+)=(.*)$/gm);
    const env = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
    expect(Object.keys(env)).toContain('SANDBOX_MEMORY');
    expect(readConfig(env)).toEqual(readConfig({}));
  });
});

function thrownBy(act: () => unknown): SandyardError {
  try {
    act();
  } catch (error) {
    if (error instanceof SandyardError) return error;
    throw error;
  }
  throw new Error('Nothing was thrown.');
}

describe('webhooks', () => {
  const urls = 'https://hooks.example/a, http://127.0.0.1:9000/b?c=d';
  const bytes = Buffer.from('0123456789abcdefghijklmn');

  it('are called with the key that the secret is, by itself or in base64, also in a file', () => {
    const expected = { urls: ['https://hooks.example/a', 'http://127.0.0.1:9000/b?c=d'], key: bytes };
    const secret = `whsec_${bytes.toString('base64')}`;
    for (const given of [
      { SANDBOX_WEBHOOK_SECRET: secret },
      { SANDBOX_WEBHOOK_SECRET: bytes.toString() },
      { SANDBOX_WEBHOOK_SECRET_FILE: tokenFile('webhook', `${secret}\n`) },
    ]) {
      expect(readConfig({ SANDBOX_WEBHOOK_URLS: urls, ...given }).webhooks).toEqual(expected);
    }
    expect(readConfig({ SANDBOX_WEBHOOK_SECRET: secret }).webhooks).toBeUndefined();
    expect(readManagerDefaults({ SANDBOX_WEBHOOK_URLS: 'none' })).not.toHaveProperty('webhooks');
  });

  it.each([
    [{ SANDBOX_WEBHOOK_URLS: urls }, 'there is no secret'],
    [{ SANDBOX_WEBHOOK_URLS: urls, SANDBOX_WEBHOOK_SECRET: `whsec_${'c2hvcnQ='.repeat(3)}` }, 'is not 24 bytes'],
    [{ SANDBOX_WEBHOOK_URLS: urls, SANDBOX_WEBHOOK_SECRET: 's3cret' }, 'SECRET is set to what can not be a secret'],
    [{ SANDBOX_WEBHOOK_URLS: urls, SANDBOX_WEBHOOK_SECRET_FILE: '/none' }, "can't be read"],
    [{ SANDBOX_WEBHOOK_URLS: 's3cret' }, 'URLS is set to what can not be URLs'],
    [{ SANDBOX_WEBHOOK_URLS: 'file:///etc/passwd' }, 'can not be URLs'],
    [{ SANDBOX_WEBHOOK_URLS: 'https://me:s3cret@hooks.example' }, 'without user and password'],
  ])('%j is refused without a secret in the message', (env, message) => {
    const act = () => readConfig(env);
    expect(act).toThrow(message);
    expect(act).not.toThrow('s3cret');
    expect(act).toThrow(expect.objectContaining({ code: 'config_invalid' }) as Error);
  });
});

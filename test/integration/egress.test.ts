import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { EgressLogEntry, Sandbox, SandboxManager } from '../../src/index.js';
import { startInternet, type Internet } from '../fixtures/internet.js';
import { dockerClient, eventually, removeAll, testManager, testSandbox } from '../fixtures/run.js';

const ALLOW = ['index.test', 'registry.test:443', 'git.test', '*.cdn.test', 'gone.test'];
const TRICKS = [
  'private.test',
  'metadata.test',
  'loopback.test',
  'host.test',
  'mixed.test',
  'rebind.test',
  'unknown.test',
];

let internet: Internet;
let manager: SandboxManager;
let sandbox: Sandbox;

beforeAll(async () => {
  internet = await startInternet();
  manager = await testManager({ egress: settings() });
  sandbox = await makeSandbox(manager);
  await internet.expose(await proxyOf(manager));
});
afterAll(async () => {
  if (manager !== undefined) await removeAll(manager);
  await internet?.stop();
});

function settings() {
  return { dns: [internet.address], network: internet.network, allowedDomains: ['*'] };
}

const CA = '/home/sandbox/ca.pem';

async function makeSandbox(by: SandboxManager, allow: readonly string[] = [...ALLOW, ...TRICKS]): Promise<Sandbox> {
  const made = await by.create({
    memoryLimit: '512m',

    network: { egress: { allow: [...allow] } },
    env: { CURL_CA_BUNDLE: CA, PIP_CERT: CA, NODE_EXTRA_CA_CERTS: CA, GIT_SSL_CAINFO: CA, SSL_CERT_FILE: CA },
  });
  await made.files.write(CA, internet.ca);
  return made;
}

async function proxyOf(by: SandboxManager): Promise<string> {
  const found = await dockerClient().listContainers({ filters: { label: [`sandyard.egress=${by.owner}`] } });
  return found[0]?.Names[0]?.slice(1) ?? '';
}

/** Runs a command, and tells how long it took and what the proxy has written down meanwhile. */
async function attempt(command: string | string[], from = sandbox) {
  const { lastSeq } = await from.egress.log();
  const began = performance.now();
  const { exitCode, stdout, stderr } = await from.exec(command, { timeoutMs: 60_000 });
  const ms = performance.now() - began;
  const { entries } = await from.egress.log({ after: lastSeq });
  return { exitCode, text: `${stdout}${stderr}`, ms, entries };
}

const reasons = (entries: readonly EgressLogEntry[]) => entries.map(({ reason }) => reason);

describe('what a sandbox with egress can do over an allowed host', () => {
  it.each([
    [
      'pip download',
      'cd /tmp && pip download --no-deps --index-url https://index.test/simple/ hello-egress && ls *.whl',
    ],
    [
      'npm install',
      'mkdir -p /tmp/n && cd /tmp/n && npm install --registry https://registry.test/ hello-egress && node -p "require(\'hello-egress\')"',
    ],
    ['git clone', 'cd /tmp && rm -rf repo && git clone https://git.test/repo.git && cat repo/README'],
    ['git clone, over plain HTTP', 'cd /tmp && rm -rf repo && git clone http://git.test/repo.git && cat repo/README'],
    ['curl', 'curl -sf https://a.cdn.test/echo'],
    [
      'fetch in Node.js',
      'node -e "fetch(\'https://index.test/x\').then((r) => process.exit(r.ok ? 0 : 1), (e) => { console.error(e); process.exit(2); })"',
    ],
    ['a body of a megabyte', 'head -c 1000000 /dev/zero | curl -sf --data-binary @- http://index.test/ | grep 1000000'],
    [
      'a chunked body with GET',
      'head -c 100000 /dev/zero | curl -sf -X GET -H "Transfer-Encoding: chunked" --data-binary @- http://index.test/ | grep 100000',
    ],
  ])('%s', async (_what, script) => {
    const { exitCode, text, entries } = await attempt(script);
    expect(exitCode, text).toBe(0);
    expect(entries.length).toBeGreaterThan(0);
    expect(entries.every(({ decision, address }) => decision === 'allowed' && address === internet.address)).toBe(true);
  });
});

describe('what it is refused, within five seconds and with a line in the log', () => {
  it.each([
    ['a host that is not allowed', 'https://evil.test/', 'host_not_allowed'],
    ['the same over plain HTTP', 'http://evil.test/', 'host_not_allowed'],
    ['what only ends like an allowed one', 'https://notindex.test/', 'host_not_allowed'],
    ['the suffix of a wildcard', 'https://cdn.test/', 'host_not_allowed'],
    ['another port', 'http://index.test:8080/', 'port_not_allowed'],
    ['a port that its rule does not have', 'http://registry.test/', 'port_not_allowed'],
    ['port 22', 'https://index.test:22/', 'port_not_allowed'],
    ['an address', 'http://203.0.113.10/', 'ip_literal'],
    ['a decimal address', 'http://2852039166/', 'ip_literal'],
    ['a hexadecimal address', 'http://0xA9FEA9FE/', 'ip_literal'],
    ['an octal address', 'http://0251.0376.0251.0376/', 'ip_literal'],
    ['a short address', 'http://10.1/', 'ip_literal'],
    ['an IPv6 address', 'https://[fd00::1]/', 'ip_literal'],
    ['an IPv4 address in IPv6', 'https://[::ffff:169.254.169.254]/', 'ip_literal'],
    ['an allowed name of a private address', 'http://private.test/', 'address_not_public'],
    ['an allowed name of the metadata service', 'http://metadata.test/', 'address_not_public'],
    ['an allowed name of the loopback', 'http://loopback.test/', 'address_not_public'],
    ["an allowed name of the engine's machine", 'http://host.test/', 'address_not_public'],
    ['a name with one good and one bad address', 'http://mixed.test/', 'address_not_public'],
    ['a name that does not exist', 'https://unknown.test/', 'name_not_found'],
    ['a host where nothing answers', 'https://gone.test/', 'connect_failed'],
  ])('%s', async (_what, url, reason) => {
    const { exitCode, ms, entries, text } = await attempt(['curl', '-sS', '-g', '-f', '--max-time', '10', url]);
    expect(exitCode, text).not.toBe(0);
    expect(reasons(entries)).toEqual([reason]);
    expect(ms).toBeLessThan(5000);
  });

  it('a name that leads elsewhere when it is looked up again', async () => {
    const got = [];
    for (let index = 0; index < 4; index += 1) got.push(await attempt(['curl', '-sS', 'http://rebind.test/']));
    expect(got.map(({ entries }) => entries.map((entry) => entry.reason ?? entry.address))).toEqual(
      [0, 1, 2, 3].map((index) => [index % 2 === 0 ? internet.address : 'address_not_public']),
    );
  });

  it('fronting: a TLS client that names another server than the tunnel is for', async () => {
    const script = 'curl -sS --max-time 10 --connect-to evil.test:443:index.test:443 https://evil.test/';
    const { exitCode, entries } = await attempt(script);
    expect(exitCode).not.toBe(0);
    expect(reasons(entries)).toEqual(['sni_mismatch']);
  });

  it('what is no TLS in a tunnel', async () => {
    const { exitCode, entries } = await attempt('curl -sS --max-time 10 -p http://index.test/');
    expect(exitCode).not.toBe(0);
    expect(reasons(entries)).toEqual(['not_tls']);
  });

  it('another Host than that of the URL', async () => {
    const { text } = await attempt("curl -s -H 'Host: evil.test' http://index.test/");
    expect(JSON.parse(text)).toMatchObject({ headers: { host: 'index.test' } });
  });

  it.each([
    [
      'two lengths',
      'POST http://index.test/ HTTP/1.1\r\nHost: index.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    ],
    [
      'a length twice',
      'POST http://index.test/ HTTP/1.1\r\nHost: index.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde',
    ],
    [
      'a request after another',
      'GET http://index.test/ HTTP/1.1\r\nHost: index.test\r\n\r\nGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n',
    ],
    ['a path alone', 'GET / HTTP/1.1\r\nHost: index.test\r\n\r\n'],
    ['a user in the URL', 'GET http://index.test:80@evil.test/ HTTP/1.1\r\nHost: index.test\r\n\r\n'],
    ['a tunnel to nowhere', 'CONNECT index.test HTTP/1.1\r\nHost: index.test\r\n\r\n'],
    ['no HTTP', '\x16\x03\x01\x01 garbage\r\n\r\n'],
  ])('a request with %s', async (what, request) => {
    const script = `import socket,sys
s = socket.create_connection(('egress-proxy', 3128), 5)
s.sendall(sys.argv[1].encode('latin1'))
s.settimeout(5)
got = b''
while True:
    part = s.recv(65536)
    if not part: break
    got += part
print(got.decode('latin1'))`;
    const { exitCode, text, entries } = await attempt(['python3', '-c', script, request]);
    const answered = text.match(/HTTP\/1\.1 200/g)?.length ?? 0;
    expect(answered, text).toBe(what === 'a request after another' ? 1 : 0);
    expect(entries.some(({ host, decision }) => host.includes('evil') && decision === 'allowed')).toBe(false);
    expect([0, 1]).toContain(exitCode);
  });
});

describe('what it can not reach at all', () => {
  const connect = (host: string, port: number, from = sandbox) =>
    attempt(['python3', '-c', `import socket; socket.create_connection((${JSON.stringify(host)}, ${port}), 3)`], from);

  it.each([
    ['the internet, past the proxy', () => [internet.address, 80]],
    ['the metadata service', () => [internet.metadataAddress, 80]],
    ['a name server', () => ['198.51.100.53', 53]],
  ] as const)('%s', async (_what, target) => {
    const [host, port] = target() as [string, number];
    const { exitCode, ms } = await connect(host, port);
    expect(exitCode).not.toBe(0);
    expect(ms).toBeLessThan(5000);
  });

  it("a service of the engine's machine, by any of its addresses, or by the gateway", async () => {
    const server = createServer((socket) => socket.end('reached')).listen(0, '0.0.0.0');
    await once(server, 'listening');
    try {
      const { port } = server.address() as AddressInfo;
      const own = Object.values(networkInterfaces()).flatMap((found) => found ?? []);
      const addresses = own.filter(({ family }) => family === 'IPv4').map(({ address }) => address);
      const { stdout } = await sandbox.exec(['awk', '$2 == "00000000" { print $3 }', '/proc/net/route']);
      const gateway = (stdout.trim().match(/../g) ?? [])
        .toReversed()
        .map((byte) => Number.parseInt(byte, 16))
        .join('.');
      for (const host of [...addresses, ...(gateway === '' ? [] : [gateway])]) {
        const { exitCode, ms } = await connect(host, port);
        expect(exitCode, host).not.toBe(0);
        expect(ms).toBeLessThan(5000);
        const proxied = await attempt(['curl', '-sS', '-f', '--max-time', '5', `http://${host}:${port}/`]);
        expect(reasons(proxied.entries), host).toEqual(host.startsWith('127.') ? [] : ['ip_literal']);
      }
    } finally {
      server.close();
    }
  });

  it('another sandbox: neither by its address, nor by the proxy', async () => {
    const neighbour = await makeSandbox(manager);
    try {
      const { NetworkSettings } = await dockerClient().getContainer(`sandyard-${neighbour.id}`).inspect();
      const address = Object.values(NetworkSettings.Networks)[0]?.IPAddress ?? '';
      const server = await neighbour.spawn(['python3', '-m', 'http.server', '8000']);
      expect((await connect(address, 8000)).exitCode).not.toBe(0);
      expect((await attempt(`curl -sf http://${address}:8000/`)).exitCode).not.toBe(0);
      expect((await attempt(`curl -sf http://${neighbour.id}/`)).exitCode).not.toBe(0);
      await server.kill();
    } finally {
      await neighbour.destroy();
    }
  });

  it('the proxy, by the addresses that it has in other networks', async () => {
    const { NetworkSettings } = await dockerClient()
      .getContainer(await proxyOf(manager))
      .inspect();
    const own = `sandyard-${sandbox.id}`;
    const others = Object.entries(NetworkSettings.Networks).filter(([name]) => name !== own);
    expect(others.length).toBeGreaterThan(1);
    for (const [, { IPAddress }] of others) expect((await connect(IPAddress, 3128)).exitCode).not.toBe(0);
    expect((await connect('egress-proxy', 3128)).exitCode).toBe(0);
  });

  it("other ports of the proxy's container", async () => {
    const { exitCode } = await attempt(
      'for p in 22 53 80 443 2375 8080 8888; do if nc -z -w1 egress-proxy $p 2>/dev/null || (exec 3<>/dev/tcp/egress-proxy/$p) 2>/dev/null; then exit 9; fi; done',
    );
    expect(exitCode).toBe(0);
  });

  it('names, by DNS', async () => {
    const { exitCode, ms } = await attempt([
      'python3',
      '-c',
      "import socket; socket.gethostbyname('secret.evil.test')",
    ]);
    expect(exitCode).not.toBe(0);
    expect(ms).toBeLessThan(3000);
  });

  it('anything by IPv6', async () => {
    const { text } = await attempt('cat /proc/net/if_inet6; true');
    expect(text).toBe('');
  });
});

describe('the policy of a sandbox', () => {
  it('can be changed while it runs: what is open is cut, too', async () => {
    const one = await makeSandbox(manager, ['index.test']);
    try {
      expect((await attempt('curl -sf https://git.test/', one)).exitCode).not.toBe(0);
      await one.egress.set({ allow: ['git.test', 'index.test'] });
      expect((await attempt('curl -sf https://git.test/', one)).exitCode).toBe(0);
      const { lastSeq } = await one.egress.log();
      const open = await one.spawn(['curl', '-sN', 'https://git.test/slow']);
      await eventually(async () => ((await one.egress.log({ after: lastSeq })).entries.length > 0 ? true : undefined));
      await one.egress.set({ allow: [] });
      expect((await open.wait()).exitCode).not.toBe(0);
      expect((await one.egress.log()).entries.at(-1)).toMatchObject({ reason: 'policy_changed', host: 'git.test' });
      expect(await one.egress.get()).toMatchObject({ allow: [], learn: false });
    } finally {
      await one.destroy();
    }
  });

  it('explains what it would decide', async () => {
    expect(await sandbox.egress.check('https://index.test/x')).toMatchObject({
      allowed: true,
      rule: 'index.test',
      address: internet.address,
    });
    expect(await sandbox.egress.check('https://evil.test/')).toMatchObject({
      allowed: false,
      reason: 'host_not_allowed',
    });
    expect(await sandbox.egress.check('http://2130706433/')).toMatchObject({ allowed: false, reason: 'ip_literal' });
    expect(await sandbox.egress.check('http://metadata.test/')).toMatchObject({
      allowed: false,
      reason: 'address_not_public',
    });
    await expect(sandbox.egress.check('ftp://index.test/')).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('is learnt from what a run needs', async () => {
    const one = await testSandbox(manager, { network: { egress: { learn: true } } });
    await one.exec(
      'curl -sk https://index.test/ https://git.test/ http://evil.test/ > /dev/null; curl -s http://metadata.test/',
    );
    const { learnt } = await one.egress.get();
    expect(learnt).toEqual(['evil.test', 'git.test', 'index.test']);
    await one.egress.set({ learn: false, allow: ['git.test'] });
    expect((await attempt('curl -sfk https://git.test/', one)).exitCode).toBe(0);
    expect((await attempt('curl -sfk https://evil.test/', one)).exitCode).not.toBe(0);
  });

  it('bounds bytes and connections', async () => {
    const network = { egress: { allow: ['index.test'], maxBytes: 1_000_000, maxConnections: 2 } };
    const one = await testSandbox(manager, { network });
    const big = await attempt('curl -s "http://index.test/big?bytes=5000000" | wc -c', one);
    expect(Number(big.text)).toBeLessThan(1_000_000);
    expect(reasons(big.entries)).toContain('bytes_exhausted');
    expect(reasons((await attempt('curl -s http://index.test/', one)).entries)).toEqual(['bytes_exhausted']);
    await one.egress.set({ maxBytes: null });
    const slow = 'curl -sN http://index.test/slow > /dev/null';
    const many = await attempt(`${slow} & ${slow} & sleep 1; curl -s http://index.test/; kill %1 %2`, one);
    expect(reasons(many.entries)).toEqual([null, null, 'too_many_connections']);
  });

  it('is refused beyond what the operator allows, and where that is nothing', async () => {
    const narrow = await testManager({ egress: { ...settings(), allowedDomains: ['*.cdn.test'] } });
    const closed = await testManager({ egress: { ...settings(), allowedDomains: [] } });
    const make = (by: SandboxManager, allow: string[]) => by.create({ network: { egress: { allow } } });
    try {
      await expect(make(narrow, ['a.cdn.test', 'index.test'])).rejects.toMatchObject({
        code: 'limit_exceeded',
        message: expect.stringContaining('index.test') as unknown,
      });
      await expect(make(closed, ['index.test'])).rejects.toMatchObject({
        code: 'limit_exceeded',
        hint: expect.stringContaining('SANDBOX_ALLOWED_DOMAINS') as unknown,
      });
    } finally {
      await removeAll(narrow);
      await removeAll(closed);
    }
  });
});

it('is attested: the only network that it is in is its own', async () => {
  const { checks } = await sandbox.attest();
  expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
  expect(checks.find(({ check }) => check === 'Networks')?.found).toBe(`sandyard-${sandbox.id}`);
});

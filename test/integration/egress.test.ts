import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import {
  attemptEgress,
  connectEgress,
  egressSettings,
  proxyOf,
  reasonsOf,
  startEgressGround,
  type EgressGround,
} from '../fixtures/egress.js';
import type { Internet } from '../fixtures/internet.js';
import {
  dockerClient,
  eventually,
  removeAll,
  RUNTIMES,
  testManager,
  testSandbox,
  withNetwork,
} from '../fixtures/run.js';

let ground: EgressGround;
let internet: Internet;
let manager: SandboxManager;
let sandbox: Sandbox;

beforeAll(async () => {
  ground = await startEgressGround();
  ({ internet, manager, sandbox } = ground);
});
afterAll(() => ground?.stop());

const settings = () => egressSettings(internet);
const attempt = (command: string | string[], from = sandbox) => attemptEgress(from, command);

describe.each(RUNTIMES)('a sandbox of %s with egress', (tested) => {
  let from: Sandbox;
  beforeAll(async () => {
    from = await ground.make({ runtime: withNetwork(tested) });
  });
  afterAll(() => from?.destroy());

  describe('can do over an allowed host', () => {
    it.each([
      [
        'pip download',
        'cd /tmp && pip download --no-deps --index-url https://index.test/simple/ hello-egress && find . -name "*.whl" | grep hello',
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
      [
        'a body of a megabyte',
        'head -c 1000000 /dev/zero | curl -sf --data-binary @- http://index.test/ | grep 1000000',
      ],
      [
        'a chunked body with GET',
        'head -c 100000 /dev/zero | curl -sf -X GET -H "Transfer-Encoding: chunked" --data-binary @- http://index.test/ | grep 100000',
      ],
    ])('%s', async (_what, script) => {
      const { exitCode, text, entries } = await attemptEgress(from, script);
      expect(exitCode, text).toBe(0);
      expect(entries.length).toBeGreaterThan(0);
      expect(entries.every(({ decision, address }) => decision === 'allowed' && address === internet.address)).toBe(
        true,
      );
    });
  });

  describe('can not reach at all', () => {
    it('the proxy, by the addresses that it has in other networks', async () => {
      const { NetworkSettings } = await dockerClient()
        .getContainer(await proxyOf(manager))
        .inspect();
      const own = `sandyard-${from.id}`;
      const others = Object.entries(NetworkSettings.Networks).filter(([name]) => name !== own);
      expect(others.length).toBeGreaterThan(1);
      for (const [, { IPAddress }] of others) expect((await connectEgress(from, IPAddress, 3128)).exitCode).not.toBe(0);
      expect((await connectEgress(from, 'egress-proxy', 3128)).exitCode).toBe(0);
    });

    it("other ports of the proxy's container", async () => {
      const { exitCode } = await attemptEgress(
        from,
        'for p in 22 53 80 443 2375 8080 8888; do if nc -z -w1 egress-proxy $p 2>/dev/null || (exec 3<>/dev/tcp/egress-proxy/$p) 2>/dev/null; then exit 9; fi; done',
      );
      expect(exitCode).toBe(0);
    });

    it('anything by IPv6', async () => {
      const { text } = await attemptEgress(from, 'cat /proc/net/if_inet6; true');
      expect(text).toBe('');
    });
  });

  it('is attested: the only network that it is in is its own', async () => {
    const { checks } = await from.attest();
    expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(checks.find(({ check }) => check === 'Networks')?.found).toBe(`sandyard-${from.id}`);
  });
});

describe('what is refused', () => {
  it('fronting: a TLS client that names another server than the tunnel is for', async () => {
    const script = 'curl -sS --max-time 10 --connect-to evil.test:443:index.test:443 https://evil.test/';
    const { exitCode, entries } = await attempt(script);
    expect(exitCode).not.toBe(0);
    expect(reasonsOf(entries)).toEqual(['sni_mismatch']);
  });

  it('what is no TLS in a tunnel', async () => {
    const { exitCode, entries } = await attempt('curl -sS --max-time 10 -p http://index.test/');
    expect(exitCode).not.toBe(0);
    expect(reasonsOf(entries)).toEqual(['not_tls']);
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

describe('the policy of a sandbox', () => {
  it('can be changed while it runs: what is open is cut, too', async () => {
    const one = await ground.make({ network: { egress: { allow: ['index.test'] } } });
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
    expect(reasonsOf(big.entries)).toContain('bytes_exhausted');
    expect(reasonsOf((await attempt('curl -s http://index.test/', one)).entries)).toEqual(['bytes_exhausted']);
    await one.egress.set({ maxBytes: null });
    const slow = 'curl -sN http://index.test/slow > /dev/null';
    const many = await attempt(`${slow} & ${slow} & sleep 1; curl -s http://index.test/; kill %1 %2`, one);
    expect(reasonsOf(many.entries)).toEqual([null, null, 'too_many_connections']);
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

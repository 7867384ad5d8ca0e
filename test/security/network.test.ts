import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import { afterAll, beforeAll, describe, expect } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import {
  attemptEgress,
  connectEgress,
  egressSettings,
  reasonsOf,
  startEgressGround,
  type EgressGround,
} from '../fixtures/egress.js';
import { dockerClient, removeAll, RUNTIMES, testManager, withNetwork } from '../fixtures/run.js';
import { python } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

const AT_ONCE_MS = 5000;
const MANY = 40;
const METADATA = '169.254.169.254';

/** What it is refused, each with a line in the log. */
const REFUSED: readonly (readonly [what: string, url: string, reason: string])[] = [
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
];

/** Tries each address and a name, and prints by what it was refused, and whether that took too long. */
const REACH = `
import errno, socket, sys, time
def attempt(what, run):
    began = time.monotonic()
    try: run(); came = 'reached'
    except socket.gaierror: came = 'no answer'
    except OSError as error: came = errno.errorcode.get(error.errno, 'timed out')
    print(what, came, 'late' if time.monotonic() - began > 5 else 'in time')
for target in sys.argv[1:]:
    host, port = target.split(':')
    attempt(target, lambda: socket.create_connection((host, int(port)), 10).close())
attempt('name', lambda: socket.gethostbyname('secret.evil.test'))`;

describe.each(RUNTIMES)('a sandbox of %s without a network', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  attempt(31, async () => {
    const sandbox = await manager.create({ runtime, memoryLimit: '256m' });
    const targets = ['172.17.0.1:22', '172.17.0.1:2375', `${METADATA}:80`, '203.0.113.53:53'];
    const lines = (await python(sandbox, REACH, ...targets)).split('\n');
    expect(lines).toHaveLength(targets.length + 1);
    for (const line of lines) expect(line).toMatch(/ (ENETUNREACH|EHOSTUNREACH|no answer) in time$/);
    const answers = lines.map((line) => line.split(' ').slice(1, -2).join(' '));
    return [...new Set(answers)].join(', ');
  });
});

describe.each(RUNTIMES)('a sandbox of %s with egress', (tested) => {
  const attempt = attemptsOn(tested);
  const runtime = withNetwork(tested);
  let ground: EgressGround;
  let sandbox: Sandbox;
  beforeAll(async () => {
    ground = await startEgressGround(tested);
    ({ sandbox } = ground);
  });
  afterAll(() => ground?.stop());

  attempt(32, async () => {
    const server = createServer((socket) => socket.end('reached')).listen(0, '0.0.0.0');
    await once(server, 'listening');
    const neighbour = await ground.make();
    try {
      const { port } = server.address() as AddressInfo;
      const hosts = [...ownAddresses(), ...(await gatewayOf(sandbox))];
      for (const host of hosts) {
        const { exitCode, ms } = await connectEgress(sandbox, host, port);
        expect(exitCode, host).not.toBe(0);
        expect(ms).toBeLessThan(AT_ONCE_MS);
        const proxied = await attemptEgress(sandbox, [
          'curl',
          '-sS',
          '-f',
          '--max-time',
          '5',
          `http://${host}:${port}/`,
        ]);
        expect(reasonsOf(proxied.entries), host).toEqual(host.startsWith('127.') ? [] : ['ip_literal']);
      }
      const { NetworkSettings } = await dockerClient().getContainer(`sandyard-${neighbour.id}`).inspect();
      const address = Object.values(NetworkSettings.Networks)[0]?.IPAddress ?? '';
      await neighbour.spawn(['python3', '-m', 'http.server', '8000']);
      expect((await connectEgress(sandbox, address, 8000)).exitCode).not.toBe(0);
      expect((await attemptEgress(sandbox, `curl -sf http://${address}:8000/`)).exitCode).not.toBe(0);
      expect((await attemptEgress(sandbox, `curl -sf http://${neighbour.id}/`)).exitCode).not.toBe(0);
      return 'no connection to any; by the proxy `ip_literal`';
    } finally {
      await neighbour.destroy();
      server.close();
    }
  });

  attempt(33, async () => {
    const { internet } = ground;
    const allowed = await attemptEgress(sandbox, ['curl', '-sS', '-f', 'https://index.test/']);
    expect(allowed.exitCode, allowed.text).toBe(0);
    for (const [what, url, reason] of REFUSED) {
      const { exitCode, ms, entries, text } = await attemptEgress(sandbox, [
        'curl',
        '-sS',
        '-g',
        '-f',
        '--max-time',
        '10',
        url,
      ]);
      expect(exitCode, `${what}: ${text}`).not.toBe(0);
      expect([what, reasonsOf(entries)]).toEqual([what, [reason]]);
      expect(ms, what).toBeLessThan(AT_ONCE_MS);
    }
    const changing = [];
    for (let index = 0; index < 4; index += 1)
      changing.push(await attemptEgress(sandbox, ['curl', '-sS', 'http://rebind.test/']));
    expect(changing.map(({ entries }) => entries.map((entry) => entry.reason ?? entry.address))).toEqual(
      [0, 1, 2, 3].map((index) => [index % 2 === 0 ? internet.address : 'address_not_public']),
    );
    for (const [host, port] of [
      [internet.address, 80],
      [internet.metadataAddress, 80],
      ['198.51.100.53', 53],
    ] as const) {
      const { exitCode, ms } = await connectEgress(sandbox, host, port);
      expect(exitCode, host).not.toBe(0);
      expect(ms).toBeLessThan(AT_ONCE_MS);
    }
    const reasons = new Set(REFUSED.map(([, , reason]) => `\`${reason}\``));
    return `allowed: answered; refused: ${[...reasons].join(' ')}; past the proxy: no way`;
  });

  attempt(34, async () => {
    const { exitCode, ms } = await attemptEgress(sandbox, [
      'python3',
      '-c',
      "import socket; socket.gethostbyname('secret.evil.test')",
    ]);
    expect(exitCode).not.toBe(0);
    expect(ms).toBeLessThan(3000);
    return 'no answer, in time';
  });

  attempt(
    35,
    async () => {
      const egress = egressSettings(ground.internet);
      const manager = await testManager({ egress, admission: { atOnce: 8, queue: 100 } });
      const networks = () => dockerClient().listNetworks({ filters: { label: [`sandyard.owner=${manager.owner}`] } });
      try {
        const options = { runtime, memoryLimit: '64m', network: { egress: { allow: ['index.test'] } } };
        const made = await Promise.all(Array.from({ length: MANY }, () => manager.create(options)));
        expect(await networks()).toHaveLength(MANY);
        const reached = await Promise.all(
          made.map((one) => one.exec(['curl', '-sf', '--max-time', '10', 'http://index.test/'])),
        );
        expect(reached.map(({ exitCode }) => exitCode)).toEqual(made.map(() => 0));
        await Promise.all(made.map((one) => one.destroy()));
        const left = (await networks()).length;
        expect(left).toBe(0);
        return `all ${reached.length} work; ${left} networks left`;
      } finally {
        await removeAll(manager);
      }
    },
    300_000,
  );
});

function ownAddresses(): string[] {
  const own = Object.values(networkInterfaces()).flatMap((found) => found ?? []);
  return own.filter(({ family }) => family === 'IPv4').map(({ address }) => address);
}

async function gatewayOf(sandbox: Sandbox): Promise<string[]> {
  const { stdout } = await sandbox.exec(['awk', '$2 == "00000000" { print $3 }', '/proc/net/route']);
  const bytes = (stdout.trim().match(/../g) ?? []).toReversed().map((byte) => Number.parseInt(byte, 16));
  return bytes.length === 0 ? [] : [bytes.join('.')];
}

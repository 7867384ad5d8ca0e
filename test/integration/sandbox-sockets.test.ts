import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';

import { SandboxManager, type CreateOptions, type ManagerOptions, type Sandbox } from '../../src/index.js';
import { OwnEngine } from '../fixtures/own-engine.js';
import { WardenContainer } from '../fixtures/warden-container.js';
import {
  dockerClient,
  eventually,
  IMAGE,
  makeSocketDirectory,
  newOwner,
  removeAll,
  RUNTIMES,
  testManager,
} from '../fixtures/run.js';

const SMALL: CreateOptions = { memoryLimit: '64m', runtime: 'runc' };
const docker = dockerClient();

let socketDirectory: string;
let owner: string;
const managers: SandboxManager[] = [];

beforeAll(async () => {
  socketDirectory = await makeSocketDirectory();
  owner = newOwner();
});
afterEach(async () => {
  await Promise.all(managers.splice(0).map((manager) => manager.close()));
  await removeAll(await testManager({ owner, socketDirectory }));
});
afterAll(() => rm(socketDirectory, { recursive: true }));

async function open(options: ManagerOptions = {}): Promise<SandboxManager> {
  const manager = await testManager({ owner, socketDirectory, ...options });
  managers.push(manager);
  return manager;
}

const withoutSockets = () => open({ socketDirectory: 'none' });
const container = (id: string) => docker.getContainer(`sandyard-${id}`);
/** How many ways in the engine has made. */
const execs = async (id: string) => ((await container(id).inspect()).ExecIDs ?? []).length;
const echo = async (sandbox: Sandbox) => (await sandbox.exec(['echo', 'here'])).stdout;
/** The directories of the owner's sandboxes. */
async function directories(): Promise<string[]> {
  const owners = await readdir(socketDirectory);
  return (await Promise.all(owners.map((name) => readdir(join(socketDirectory, name))))).flat();
}

describe('managers that have a directory with the engine in common', () => {
  it('need nothing of the engine to get into a sandbox that another has made', async () => {
    const { id } = await (await open()).create(SMALL);
    for (const manager of [await open(), await open()]) {
      const sandbox = await manager.get(id);
      expect(await echo(sandbox)).toBe('here\n');
      const bytes = Buffer.alloc(3 * 1024 * 1024, 'a line of it\n');
      await sandbox.files.write('/workspace/file', bytes);
      expect(Buffer.compare(await sandbox.files.read('/workspace/file'), bytes)).toBe(0);
    }
    expect(await execs(id)).toBe(0);
  });

  it('do so at once', async () => {
    const { id } = await (await open()).create(SMALL);
    const others = await Promise.all(Array.from({ length: 8 }, () => open()));
    const printed = await Promise.all(others.map(async (manager) => echo(await manager.get(id))));
    expect(printed).toEqual(others.map(() => 'here\n'));
  });

  it.each([{ profile: 'strict' }, { network: 'bridge' }, { user: '1234' }] as const)(
    'do so where it is made with %o',
    async (given) => {
      const { id } = await (await open()).create({ ...SMALL, ...given });
      expect(await echo(await (await open()).get(id))).toBe('here\n');
      expect(await execs(id)).toBe(0);
    },
  );

  it('have a way in as before to one without such a directory, as have those without one to theirs', async () => {
    const [one, other] = [await open(), await withoutSockets()];
    const [made, madeByOther] = [await one.create(SMALL), await other.create(SMALL)];
    expect(await echo(await one.get(madeByOther.id))).toBe('here\n');
    expect(await echo(await other.get(made.id))).toBe('here\n');
    expect([await execs(made.id), await execs(madeByOther.id)]).toEqual([1, 1]);
  });

  it('get into one that was stopped and started, and what they had begun there ends with it', async () => {
    const [maker, other] = [await open(), await open()];
    const { id } = await maker.create(SMALL);
    const sandbox = await other.get(id);
    const running = await sandbox.spawn(['sleep', '60']);
    await maker.stop(id);
    expect(await running.wait()).toMatchObject({ outcome: 'sandbox_died' });
    await expect(echo(sandbox)).rejects.toMatchObject({ code: 'wrong_state' });
    await maker.start(id);
    expect(await echo(sandbox)).toBe('here\n');
    expect(await echo(await (await open()).get(id))).toBe('here\n');
  });

  it('are told that one is paused, and get into it when it goes on', async () => {
    const [maker, other] = [await open(), await open()];
    const { id } = await maker.create(SMALL);
    await maker.pause(id);
    const sandbox = await other.get(id);
    await expect(echo(sandbox)).rejects.toMatchObject({ code: 'wrong_state' });
    await maker.unpause(id);
    expect(await echo(sandbox)).toBe('here\n');
  });

  it('leave none when one is destroyed, if they were never opened', async () => {
    const manager = new SandboxManager({ image: IMAGE, owner, socketDirectory, reaper: false });
    managers.push(manager);
    const sandbox = await manager.create(SMALL);
    expect(await directories()).toEqual([sandbox.id]);
    await sandbox.destroy();
    expect(await directories()).toEqual([]);
  });

  it('keep no directory of one that is gone, whoever removed it, nor of one that could not be made', async () => {
    const maker = await open({ limits: { maxCpus: 1e6 } });
    const [own, others, killed] = await Promise.all([0, 1, 2].map(() => maker.create(SMALL)));
    expect((await directories()).length).toBe(3);
    await own?.destroy();
    await (await withoutSockets()).destroy(others?.id ?? '');
    await container(killed?.id ?? '').remove({ force: true });
    const noneLeft = () =>
      eventually(async () => ((await directories()).length === 0 ? true : undefined), { what: 'no directory' });
    await noneLeft();
    // What only the engine refuses has a directory by then.
    await expect(maker.create({ ...SMALL, cpuLimit: 500_000 })).rejects.toMatchObject({ code: 'limit_exceeded' });
    await noneLeft();
  });
});

describe('managers that nobody has told where to listen', () => {
  const USUAL = '/var/lib/sandyard/sockets';
  const listed = async (): Promise<string[]> => readdir(USUAL).catch(() => []);
  const said = vi.fn();
  const log = { debug: () => {}, info: said, warn: said, error: said };
  const testUnasked = (options: ManagerOptions = {}) =>
    testManager({ owner: `${owner}-unasked`, socketDirectory: 'auto', ...options });

  it('do so on the machine of the engine, and leave nothing there', async () => {
    const before = await listed();
    const [maker, other] = [await testUnasked(), await testUnasked()];
    try {
      const { id } = await maker.create(SMALL);
      const added = (await listed()).find((name) => !before.includes(name));
      expect(await readdir(join(USUAL, added ?? ''))).toEqual([id]);
      expect(await echo(await other.get(id))).toBe('here\n');
      expect(await execs(id)).toBe(0);
    } finally {
      await removeAll(other);
      await maker.close();
    }
    expect(await listed()).toEqual(before);
  });

  it('have their ways in made by an engine on another machine, and say so once', async () => {
    await using engine = await OwnEngine.start({ liveRestore: false });
    const manager = await testUnasked({ docker: engine.docker, image: OwnEngine.IMAGE_NAME, log });
    const before = await listed();
    said.mockClear();
    for (let made = 0; made < 2; made++) {
      const sandbox = await manager.create({ memoryLimit: '64m', runtime: 'runc' });
      expect(await sandbox.exec(['/program', 'say', 'yes'])).toMatchObject({ stdout: 'yes\n' });
      const { Mounts } = await engine.docker.getContainer(`sandyard-${sandbox.id}`).inspect();
      expect(Mounts.map(({ Destination }) => Destination)).not.toContain('/run/sandyard');
    }
    await removeAll(manager);
    expect(await listed()).toEqual(before);
    const messages = said.mock.calls.map(([, message]) => String(message));
    expect(messages.filter((message) => message.includes('way into a sandbox'))).toHaveLength(1);
  });
});

describe('what is in a sandbox', () => {
  it('can neither look into its directory nor write there, and has nothing else of the machine', async () => {
    const sandbox = await (await open()).create(SMALL);
    const tries = ['ls /run/sandyard', 'touch /run/sandyard/x', 'rmdir /run/sandyard', 'mv /run/sandyard /tmp'];
    for (const command of tries) {
      const { exitCode, stdout } = await sandbox.exec(command);
      expect([exitCode === 0, stdout], command).toEqual([false, '']);
    }
    const mounted = await sandbox.exec('grep " /run/sandyard " /proc/mounts');
    expect(mounted.stdout).toMatch(/^\S+ \/run\/sandyard \S+ ro,/);
    const { ok, checks } = await sandbox.attest();
    expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(ok).toBe(true);
  });

  it('that may run commands as root, or is gVisor’s, has no such directory', async () => {
    const maker = await open();
    const made = [await maker.create({ ...SMALL, profile: 'dev' })];
    if (RUNTIMES.includes('runsc')) made.push(await maker.create({ memoryLimit: '128m', runtime: 'runsc' }));
    expect(await directories()).toEqual([]);
    for (const { id } of made) expect(await echo(await (await open()).get(id))).toBe('here\n');
  });

  it('talks to root of the machine, and to nobody else there', async () => {
    const source = await makeSocketDirectory();
    await chmod(source, 0o777);
    const mounted = { directory: { source, target: '/run/sandyard' } };
    await using warden = await WardenContainer.start('runc', ['--ttl-ms=60000', '--sockets=/run/sandyard'], mounted);
    await warden.channel().ping();
    /** How much it is told by whoever connects to it within a second. */
    const hears = async (uid: number) => {
      const child = spawn(process.execPath, ['-e', LISTENER, join(source, `uid-${uid}`)], { uid, gid: uid });
      let printed = '';
      child.stdout.on('data', (chunk) => (printed += String(chunk)));
      await once(child, 'close');
      return printed;
    };
    expect(await hears(1000)).toBe('0');
    expect(Number(await hears(0))).toBeGreaterThan(10);
    await rm(source, { recursive: true });
  });
});

/** Listens as a manager does, and prints how many bytes it has heard after a second. */
const LISTENER = `
const { renameSync } = require('node:fs'), path = process.argv[1], hidden = path.replace('uid-', '.uid-');
let bytes = 0;
const server = require('node:net').createServer((socket) => socket.on('data', (data) => (bytes += data.length)).on('error', () => {}));
server.listen(hidden, () => renameSync(hidden, path));
setTimeout(() => { process.stdout.write(String(bytes)); process.exit(); }, 1000);
`;

it('a directory that is gone is made again for one that is started, by whoever can; others are told of it', async () => {
  const [manager, other] = [await open(), await withoutSockets()];
  const { id } = await manager.create(SMALL);
  await manager.stop(id);
  const [name = ''] = await readdir(socketDirectory);
  const directory = join(socketDirectory, name);
  await rm(directory, { recursive: true });
  await expect(other.start(id)).rejects.toMatchObject({
    code: 'engine_error',
    message: expect.stringContaining(join(directory, id)) as string,
    hint: expect.stringContaining('SANDBOX_SOCKET_DIR') as string,
  });
  expect((await manager.start(id)).state).toBe('running');
  expect(await echo(await (await open()).get(id))).toBe('here\n');
  expect(await execs(id)).toBe(0);
});

it('the same goes for one that is woken', async () => {
  const manager = await open();
  const { id } = await manager.create({ ...SMALL, ttlMs: 1000, onExpiry: 'stop', wakeOnUse: true });
  const isStopped = async () => ((await manager.inspect(id)).state === 'exited' ? true : undefined);
  await eventually(isStopped, { what: 'the end of its lease' });
  await rm(socketDirectory, { recursive: true });
  expect(await echo(await manager.get(id))).toBe('here\n');
});

import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import { SandboxManager, type CreateOptions, type Sandbox } from '../../src/index.js';
import { egressSettings } from '../fixtures/egress.js';
import { startInternet, type Internet } from '../fixtures/internet.js';
import {
  dockerClient,
  eventually,
  IMAGE,
  newOwner,
  removeAll,
  RUNTIMES,
  testManager,
  withNetwork,
} from '../fixtures/run.js';

const docker = dockerClient();

let internet: Internet;
beforeAll(async () => {
  internet = await startInternet();
});
afterAll(async () => {
  await internet?.stop();
});

const settings = () => egressSettings(internet);

async function open(owner = newOwner()): Promise<SandboxManager> {
  const manager = await testManager({ owner, egress: settings(), admission: { atOnce: 8, queue: 100 } });
  onTestFinished(() => removeAll(manager));
  return manager;
}

const make = (
  manager: SandboxManager,
  { allow = ['index.test'], ...options }: CreateOptions & { allow?: string[] } = {},
) => manager.create({ memoryLimit: '64m', network: { egress: { allow } }, ...options });
const reaches = async (sandbox: Sandbox, url = 'http://index.test/') =>
  (await sandbox.exec(['curl', '-sf', '--max-time', '4', url])).exitCode === 0;

const proxiesOf = (owner: string) =>
  docker.listContainers({ all: true, filters: { label: [`sandyard.egress=${owner}`] } });
const networksOf = (owner: string) => docker.listNetworks({ filters: { label: [`sandyard.owner=${owner}`] } });

describe('the proxy', () => {
  it('is one container without rights, whatever it serves', async () => {
    const manager = await open();
    const [one, two] = await Promise.all([make(manager), make(manager)]);
    const proxies = await proxiesOf(manager.owner);
    expect(proxies).toHaveLength(1);
    const { HostConfig, Mounts, Config } = await docker.getContainer(proxies[0]?.Id ?? '').inspect();
    expect(HostConfig).toMatchObject({
      Privileged: false,
      ReadonlyRootfs: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges:true', expect.stringMatching(/^seccomp=\{/)],
      Memory: 256 * 1024 * 1024,
      MemorySwap: 256 * 1024 * 1024,
      PidsLimit: 64,
      LogConfig: { Type: 'none' },
    });
    expect(HostConfig.PortBindings ?? {}).toEqual({});
    expect(HostConfig.Binds ?? []).toEqual([]);
    expect(
      Mounts.map(({ Type, Destination }) => `${Type} ${Destination}`).filter((text) => text.startsWith('volume')),
    ).toEqual(['volume /var/lib/egress']);
    expect(Config.ExposedPorts ?? {}).toEqual({});
    const { Processes } = (await docker.getContainer(proxies[0]?.Id ?? '').top({ ps_args: '-eo pid,uid,args' })) as {
      Processes: string[][];
    };
    const node = Processes.filter(([, , args]) => args?.includes('serve'));
    expect(node.map(([, uid]) => uid)).toEqual(['1000']);
    expect(await reaches(one)).toBe(true);
    expect(await reaches(two)).toBe(true);
  });

  it('is replaced when it was killed, with all networks and policies; until then nothing gets out', async () => {
    const owner = newOwner();
    const first = await testManager({ owner, egress: settings() });
    const { id, egress } = await make(first);
    await egress.set({ allow: ['git.test'] });
    await first.close();
    const [before] = await proxiesOf(owner);
    await docker.getContainer(before?.Id ?? '').kill();
    const idle = new SandboxManager({ owner, image: IMAGE, egress: settings() }); // which looks after nothing
    expect(await reaches(await idle.get(id), 'http://git.test/')).toBe(false);
    await idle.close();

    const manager = await open(owner);
    const sandbox = await manager.get(id);
    await eventually(async () => ((await reaches(sandbox, 'http://git.test/')) ? true : undefined));
    expect(await reaches(sandbox)).toBe(false);
    const [after] = await proxiesOf(owner);
    expect(after?.Id).not.toBe(before?.Id);
    await docker.getContainer(after?.Id ?? '').kill();
    await eventually(async () => ((await reaches(sandbox, 'http://git.test/')) ? true : undefined));
    expect(await reaches(sandbox)).toBe(false);
    const { entries } = await sandbox.egress.log();
    expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, index) => index + 1));
    expect(entries.at(-1)).toMatchObject({ reason: 'host_not_allowed' });
  });

  it('is replaced when its program was killed', async () => {
    const manager = await open();
    const sandbox = await make(manager);
    const [proxy] = await proxiesOf(manager.owner);
    const exec = await docker.getContainer(proxy?.Id ?? '').exec({ Cmd: ['pkill', '-KILL', '-u', '1000'], User: '0' });
    await exec.start({ Detach: true });
    await eventually(async () => ((await reaches(sandbox)) ? true : undefined));
  });

  it('is shared by the managers of an owner, outlives them, and goes with the last sandbox', async () => {
    const owner = newOwner();
    const first = await testManager({ owner, egress: settings() });
    const sandbox = await make(first);
    await sandbox.egress.set({ allow: ['git.test'] });
    await first.close();
    expect(await reachesFrom(owner, sandbox.id, 'http://git.test/')).toBe(true);
    const second = await testManager({ owner, egress: settings() });
    const same = await second.get(sandbox.id);
    expect(await same.egress.get()).toMatchObject({ allow: ['git.test'] });
    expect(await reaches(same)).toBe(false);
    expect(await proxiesOf(owner)).toHaveLength(1);
    await same.destroy();
    expect(await networksOf(owner)).toEqual([]);
    await second.close();
    expect(await proxiesOf(owner)).toEqual([]);
    const { Volumes } = await docker.listVolumes({ filters: { label: [`sandyard.egress=${owner}`] } });
    expect(Volumes ?? []).toEqual([]);
  });
});

/** With no manager but to ask. */
async function reachesFrom(owner: string, id: string, url: string): Promise<boolean> {
  const manager = await testManager({ owner, egress: settings() });
  const reached = await reaches(await manager.get(id), url);
  await manager.close();
  return reached;
}

describe('a sandbox with egress', () => {
  it.each(RUNTIMES)('of %s has it again when it was stopped and started', async (tested) => {
    const manager = await open();
    const sandbox = await make(manager, { runtime: withNetwork(tested) });
    expect(await reaches(sandbox)).toBe(true);
    await sandbox.restart({ graceMs: 0 });
    expect(await reaches(sandbox)).toBe(true);
    expect(await sandbox.inspect()).toMatchObject({ network: { egress: { allow: ['index.test'] } } });
  });

  it('leaves nothing when it could not be made', async () => {
    const manager = await open();
    const failed = manager.create({
      image: 'sandyard-sandbox:latest',
      runtime: 'none-such',
      network: { egress: { allow: [] } },
    });
    await expect(failed).rejects.toMatchObject({ code: 'validation_failed' });
    expect(await networksOf(manager.owner)).toEqual([]);
  });

  it.each(RUNTIMES.filter((tested) => tested !== 'runc'))('of the profile strict runs on %s', async (tested) => {
    const manager = await open();
    const sandbox = await make(manager, { profile: 'strict', memoryLimit: '256m' });
    expect((await sandbox.inspect()).runtime).toBe(withNetwork(tested));
    expect(await reaches(sandbox)).toBe(true);
    expect(await reaches(sandbox, 'http://git.test/')).toBe(false);
  });

  it('is refused with a runtime that has no network', async () => {
    const manager = await open();
    const { runtimesWithoutNetwork } = await manager.engineInfo();
    for (const runtime of runtimesWithoutNetwork) {
      const failed = manager.create({ runtime, network: { egress: { allow: ['index.test'] } } });
      await expect(failed).rejects.toMatchObject({
        code: 'validation_failed',
        message: expect.stringContaining(runtime) as unknown,
      });
    }
  });

  it('reaches a private address by an allowed name only where the operator has said so', async () => {
    const unsafeDestinations = [`${internet.privateAddress.replace(/\d+$/, '0')}/24`];
    const manager = await testManager({ egress: { ...settings(), unsafeDestinations } });
    onTestFinished(() => removeAll(manager));
    const sandbox = await make(manager, { allow: ['private.test', 'metadata.test'] });
    const [proxy] = await proxiesOf(manager.owner);
    await internet.expose(proxy?.Names[0] ?? '');
    expect(await reaches(sandbox, 'http://private.test/')).toBe(true);
    expect(await reaches(sandbox, 'http://metadata.test/')).toBe(false);
  });

  it('takes its network with it also where somebody else removes it', async () => {
    const manager = await open();
    const sandbox = await make(manager);
    await docker.getContainer(`sandyard-${sandbox.id}`).remove({ force: true });
    await eventually(async () => ((await networksOf(manager.owner)).length === 0 ? true : undefined));
  });
});

import { describe, expect, it } from 'vitest';

import { SandboxManager, type Sandbox } from '../../../src/index.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';
import { RUNC_PROBE } from '../../fixtures/probe-output.js';

async function makeSandbox(output: string | number = RUNC_PROBE) {
  const engine = new FakeEngine();
  const probe = async (process: { print(text: string): Promise<void> }) => {
    if (typeof output === 'number') return output;
    await process.print(output);
    return 0;
  };
  engine.wardens = { builtins: { probe } };
  const manager = new SandboxManager({ engine, reaper: false, pool: [] });
  const sandbox: Sandbox = await manager.create({ memoryLimit: '256m', pidsLimit: 256, cpuLimit: 1 });
  return { engine, manager, sandbox };
}

describe('an attestation', () => {
  it('is of what the sandbox was made with', async () => {
    const { manager, sandbox } = await makeSandbox(asOurs(RUNC_PROBE));
    await using _ = manager;
    const attestation = await manager.attest(sandbox.id);
    expect(attestation.checks.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(attestation).toMatchObject({ sandboxId: sandbox.id, runtime: 'runc', ok: true, drift: false });
  });

  it('tells what the engine has changed', async () => {
    const { engine, manager, sandbox } = await makeSandbox(asOurs(RUNC_PROBE));
    await using _ = manager;
    engine.settings.push({ setting: 'CapAdd', asked: '', found: 'SYS_ADMIN' });
    const attestation = await sandbox.attest();
    expect(attestation).toMatchObject({ ok: false, drift: true });
    expect(attestation.checks.filter(({ status }) => status === 'drift')).toMatchObject([{ check: 'CapAdd' }]);
  });

  it.each([
    ['prints what is no report', 'hello\nend\n'],
    ['prints without end', 'interface lo\n'.repeat(200_000)],
    ['fails', 1],
  ])('is not ok, and says why, where the probe %s', async (_what, output) => {
    const { manager, sandbox } = await makeSandbox(output);
    await using _ = manager;
    const { ok, drift, checks } = await sandbox.attest();
    expect({ ok, drift }).toEqual({ ok: false, drift: false });
    expect(checks.at(-1)).toMatchObject({ check: 'probe', status: 'unknown' });
  });

  it('is only to be had of what runs, which it does not wake', async () => {
    const { engine, manager, sandbox } = await makeSandbox();
    await using _ = manager;
    await sandbox.pause();
    await expect(sandbox.attest()).rejects.toMatchObject({ code: 'wrong_state', hint: 'Unpause it first.' });
    await sandbox.stop();
    await expect(sandbox.attest()).rejects.toMatchObject({ code: 'wrong_state', hint: 'Start it first.' });
    expect(engine.find(`sandyard-${sandbox.id}`).state).toBe('exited');
    await sandbox.destroy();
    await expect(sandbox.attest()).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

/** With an answer for each path that is masked, and with what our own seccomp profile refuses. */
function asOurs(output: string): string {
  return output
    .replace(/^path \S+ \/proc\/k.*\n(path \S+ \/proc\/k.*\n)*/m, () => MASKED)
    .replaceAll(/^attempt (io_uring_setup|socket_vsock|socket_alg) .*$/gm, 'attempt $1 EPERM');
}

const MASKED = (
  'acpi asound cmdline config.gz diskstats interrupts kallsyms kcore keys latency_stats partitions sched_debug scsi ' +
  'timer_list timer_stats'
)
  .split(' ')
  .map((name) => `path empty /proc/${name}\n`)
  .concat('path empty /sys/firmware\n', 'path ENOENT /sys/devices/virtual/powercap\n')
  .join('');

import { describe, expect, it } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { SandboxManager } from '../../../src/index.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

/** An engine whose sandboxes have the one operation that a trial runs. */
function makeEngine(): FakeEngine {
  const engine = new FakeEngine();
  engine.wardens = { builtins: { stat: () => 0 } };
  return engine;
}

function makeManager(engine: FakeEngine): SandboxManager {
  return new SandboxManager({ engine, reaper: false, pool: [] });
}

const severities = (checks: readonly { check: string; severity: string }[]) =>
  Object.fromEntries(checks.map(({ check, severity }) => [check, severity]));

describe('the doctor', () => {
  it('tries each runtime, one after the other, and leaves nothing', async () => {
    const engine = makeEngine();
    await using manager = makeManager(engine);
    const { ok, checks } = await manager.doctor();
    expect(severities(checks)).toMatchObject({ 'runtime runc': 'ok', 'runtime runsc': 'ok', 'second kernel': 'ok' });
    expect(ok).toBe(false); // the fake has no seccomp
    expect(engine.containers.size).toBe(0);
    const specs = engine.calls.filter(({ method }) => method === 'createContainer').map(({ args }) => args[0]);
    expect(specs).toMatchObject([
      { runtime: 'runc', network: 'none', labels: { 'sandyard.temporary': '1' } },
      { runtime: 'runsc', network: 'none', labels: { 'sandyard.temporary': '1' } },
    ]);
  });

  it('says what a runtime can not do, and removes what it has made of it', async () => {
    const engine = makeEngine();
    engine.before.startContainer = () => {
      throw new SandyardError('engine_error', 'The runtime is missing.');
    };
    await using manager = makeManager(engine);
    const { ok, checks } = await manager.doctor();
    expect(ok).toBe(false);
    expect(checks.find(({ check }) => check === 'runtime runc')).toMatchObject({
      severity: 'fail',
      found: 'The runtime is missing.',
    });
    expect(engine.containers.size).toBe(0);
  });

  it('gives up on one that hangs after ten seconds', { timeout: 60_000 }, async () => {
    const engine = makeEngine();
    engine.examination = { runtimes: ['runc'] };
    engine.before.startContainer = () => new Promise(() => {});
    await using manager = makeManager(engine);
    const began = Date.now();
    const { checks } = await manager.doctor();
    expect(checks.find(({ check }) => check === 'runtime runc')?.found).toBe('It took longer than 10 s to start.');
    expect(Date.now() - began).toBeLessThan(15_000);
  });

  it('tells that there is no engine, or no image', async () => {
    const engine = makeEngine();
    await using manager = makeManager(engine);
    engine.images.clear();
    expect(severities((await manager.doctor()).checks)).toMatchObject({ 'sandbox image': 'fail' });
    expect(engine.count('createContainer')).toBe(0);
    engine.before.examine = () => {
      throw new SandyardError('engine_unavailable', 'There is none.', { hint: 'Start it.' });
    };
    expect(await manager.doctor()).toMatchObject({
      ok: false,
      checks: [{ check: 'engine', severity: 'fail', found: 'There is none.', fix: 'Start it.' }],
    });
  });

  it('removes what a doctor has left that was killed, and nothing that may be in use', async () => {
    const engine = makeEngine();
    await using manager = makeManager(engine);
    const labels = { 'sandyard.temporary': '1' };
    engine.plant({ name: 'sandyard-trial-old', labels, createdAt: new Date(Date.now() - 600_000) });
    engine.plant({ name: 'sandyard-trial-new', labels });
    engine.plant({ name: 'other', labels: {}, createdAt: new Date(Date.now() - 600_000) });
    await manager.doctor();
    expect([...engine.containers.keys()]).toEqual(['sandyard-trial-new', 'other']);
  });

  it('looks once for all who ask at once', async () => {
    const engine = makeEngine();
    await using manager = makeManager(engine);
    const [one, other] = await Promise.all([manager.doctor(), manager.doctor()]);
    expect(one).toBe(other);
    expect(engine.count('examine')).toBe(1);
    await manager.doctor();
    expect(engine.count('examine')).toBe(2);
  });

  it('can be given up on', async () => {
    const engine = makeEngine();
    await using manager = makeManager(engine);
    const abort = new AbortController();
    engine.before.startContainer = () => abort.abort();
    await expect(manager.doctor({ signal: abort.signal })).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.containers.size).toBe(0);
  });
});

import type { Attestation, Diagnosis, CreateOptions, SandboxInfo, SandboxStats } from '../../../src/index.js';
import { egressSchema } from '../../../src/egress-schemas.js';
import { endedByLease } from '../../../src/record/expiry.js';

const at = new Date('2026-01-01T00:00:00Z');

/** What the sandboxes of the stub say of themselves. */
export const STATS: SandboxStats = {
  memoryBytes: 1000,
  memoryLimitBytes: 2000,
  cpuSeconds: 1.5,
  pids: 3,
  networkReceivedBytes: 0,
  networkSentBytes: 0,
  oomKills: 2,
  diskBytes: 4096,
  diskLimitBytes: 8192,
  inodes: 2,
  inodesLimit: 1000,
  at,
};

export const SAMPLE = {
  at,
  memoryBytes: 1000,
  cpuSeconds: 1.5,
  processes: 3,
  networkReceivedBytes: 4,
  networkSentBytes: 5,
};

export function makeInfo(id: string, options: CreateOptions): SandboxInfo {
  return {
    id,
    name: `sandyard-${id}`,
    containerId: 'c'.repeat(64),
    projectName: options.projectName ?? null,
    state: 'running',
    image: options.image ?? 'sandyard-sandbox:latest',
    owner: 'default',
    tenant: null,
    createdAt: new Date('2026-01-01T00:00:00Z'),
    expiresAt: new Date('2026-01-01T01:00:00Z'),
    startedAt: new Date('2026-01-01T00:00:01Z'),
    finishedAt: null,
    exitCode: null,
    endedBy: null,
    ttlMs: options.ttlMs ?? 3_600_000,
    idleTimeoutMs: options.idleTimeoutMs ?? null,
    maxLifetimeMs: options.maxLifetimeMs ?? 86_400_000,
    onExpiry: options.onExpiry ?? 'destroy',
    wakeOnUse: options.wakeOnUse ?? false,
    limits: {
      memoryBytes: Number(options.memoryLimit ?? 1024 ** 3),
      cpus: Number(options.cpuLimit ?? 1),
      pids: 256,
      nofile: 4096,
      diskBytes: Number(options.diskLimit ?? 1792 * 1024 ** 2),
      inodes: options.inodesLimit ?? 262_144,
    },
    disk: 'watchdog',
    network:
      typeof options.network === 'object'
        ? { egress: egressSchema.parse(options.network.egress) }
        : (options.network ?? 'none'),
    secrets: Object.fromEntries(
      Object.entries(options.secrets ?? {}).map(([name, { hosts, interceptTls = false }]) => [
        name,
        { hosts, interceptTls },
      ]),
    ),
    workdir: '/workspace',
    user: 'sandbox',
    runtime: options.runtime ?? null,
    profile: options.profile ?? 'standard',
    metadata: options.metadata ?? {},
  };
}

/** With what its exit code says of why it ended. */
export function withReason(info: SandboxInfo): SandboxInfo {
  return { ...info, endedBy: (info.exitCode !== null && endedByLease(info.exitCode)) || null };
}

export const DIAGNOSIS: Diagnosis = {
  at: new Date('2026-01-01T00:00:00Z'),
  ok: true,
  checks: [{ check: 'live restore', expected: 'on', found: 'off', severity: 'warn', fix: 'Set it.' }],
};

export const ATTESTATION: Attestation = {
  sandboxId: 'sb1',
  at: new Date('2026-01-01T00:00:00Z'),
  runtime: 'runc',
  ok: false,
  drift: true,
  checks: [
    { check: 'Memory', source: 'engine', expected: '1', found: '2', status: 'drift', fix: 'Set it back.' },
    { check: 'seccomp', source: 'inside', expected: '2', found: '2', status: 'ok', fix: null },
  ],
};

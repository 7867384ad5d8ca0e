import type { z } from 'zod';

import type {
  EgressInfo,
  EgressLog,
  EgressPolicy,
  ExecResult,
  FileInfo,
  LifecycleEvent,
  ProcessExit,
  ProcessInfo,
  PruneResult,
  Sandbox,
  SandboxInfo,
  SandboxStats,
  SecretTraits,
} from '../index.js';
import type {
  egressAnswer,
  egressLogAnswer,
  endAnswer,
  execAnswer,
  exitAnswer,
  fileAnswer,
  lifecycleEventAnswer,
  processAnswer,
  pruneAnswer,
  sandboxAnswer,
  statsAnswer,
  statsHistoryAnswer,
} from './answers.js';
import type { secretsAnswer } from './secret-answers.js';

/*
 * From the library's words to those of the wire. Only the types of the schemas are used here: the command line starts
 * without zod.
 */

export function presentSandbox(info: SandboxInfo): z.output<typeof sandboxAnswer> {
  return {
    id: info.id,
    name: info.name,
    container_id: info.containerId,
    project_name: info.projectName,
    state: info.state,
    image: info.image,
    owner: info.owner,
    tenant: info.tenant,
    created_at: info.createdAt.toISOString(),
    expires_at: info.expiresAt.toISOString(),
    expires_in: Math.max(0, Math.floor((info.expiresAt.getTime() - Date.now()) / 1000)),
    started_at: info.startedAt?.toISOString() ?? null,
    finished_at: info.finishedAt?.toISOString() ?? null,
    exit_code: info.exitCode,
    timeout: info.ttlMs / 1000,
    idle_timeout: info.idleTimeoutMs === null ? null : info.idleTimeoutMs / 1000,
    max_lifetime: info.maxLifetimeMs / 1000,
    on_expiry: info.onExpiry,
    wake_on_use: info.wakeOnUse,
    memory_limit: info.limits.memoryBytes,
    cpu_limit: info.limits.cpus,
    pids_limit: info.limits.pids,
    nofile_limit: info.limits.nofile,
    disk_limit: info.limits.diskBytes,
    inodes_limit: info.limits.inodes,
    disk: info.disk,
    network: typeof info.network === 'object' ? { egress: presentPolicy(info.network.egress) } : info.network,
    secrets: presentSecrets(info.secrets),
    workdir: info.workdir,
    user: info.user,
    runtime: info.runtime,
    profile: info.profile,
    metadata: info.metadata,
  };
}

export function presentSecrets(secrets: SecretTraits): z.output<typeof secretsAnswer>['secrets'] {
  return Object.fromEntries(
    Object.entries(secrets).map(([name, { hosts, interceptTls }]) => [
      name,
      { hosts: [...hosts], intercept_tls: interceptTls },
    ]),
  );
}

function presentPolicy(policy: EgressPolicy) {
  return {
    allow: [...policy.allow],
    learn: policy.learn,
    max_bytes: policy.maxBytes,
    bytes_per_second: policy.bytesPerSecond,
    max_connections: policy.maxConnections,
  };
}

export function presentEgress(info: EgressInfo): z.output<typeof egressAnswer> {
  return { ...presentPolicy(info), learnt: [...info.learnt] };
}

export function presentEgressLog({ entries, lastSeq, lost }: EgressLog): z.output<typeof egressLogAnswer> {
  return { entries: entries.map((entry) => ({ ...entry, at: entry.at.toISOString() })), last_seq: lastSeq, lost };
}

export function presentStats(stats: SandboxStats): z.output<typeof statsAnswer> {
  return {
    memory_bytes: stats.memoryBytes,
    memory_limit_bytes: stats.memoryLimitBytes,
    cpu_seconds: stats.cpuSeconds,
    pids: stats.pids,
    network_received_bytes: stats.networkReceivedBytes,
    network_sent_bytes: stats.networkSentBytes,
    oom_kills: stats.oomKills,
    disk_bytes: stats.diskBytes,
    disk_limit_bytes: stats.diskLimitBytes,
    inodes: stats.inodes,
    inodes_limit: stats.inodesLimit,
    at: stats.at.toISOString(),
  };
}

type Samples = Awaited<ReturnType<Sandbox['statsHistory']>>;

export function presentStatsHistory(samples: Samples): z.output<typeof statsHistoryAnswer> {
  return {
    samples: samples.map((sample) => ({
      at: sample.at.toISOString(),
      memory_bytes: sample.memoryBytes,
      cpu_seconds: sample.cpuSeconds,
      pids: sample.processes,
      network_received_bytes: sample.networkReceivedBytes,
      network_sent_bytes: sample.networkSentBytes,
    })),
  };
}

/** `null`: it was removed. */
export function presentEnd(info: SandboxInfo | null): z.output<typeof endAnswer> {
  if (info === null) return { state: 'removed', exit_code: null, reason: null, finished_at: null };
  return {
    state: 'exited',
    exit_code: info.exitCode,
    reason: info.endedBy,
    finished_at: info.finishedAt?.toISOString() ?? null,
  };
}

export function presentLifecycleEvent(event: LifecycleEvent): z.output<typeof lifecycleEventAnswer> {
  return {
    id: event.id,
    type: event.type,
    at: event.at.toISOString(),
    sandbox_id: event.sandboxId,
    owner: event.owner,
    tenant: event.tenant,
    project_name: event.projectName,
    reason: event.reason,
    by: event.by,
    request_id: event.requestId,
    exit_code: event.exitCode,
  };
}

export function presentPrune(
  { sandboxes, volumes, networks }: PruneResult,
  { dryRun }: { readonly dryRun: boolean },
): z.output<typeof pruneAnswer> {
  return {
    dry_run: dryRun,
    sandboxes: [...sandboxes],
    volumes: volumes.map(presentOrphan),
    networks: networks.map(presentOrphan),
  };
}

function presentOrphan({ name, reason, removed, error }: PruneResult['volumes'][number]) {
  return { name, reason, removed, ...(error !== undefined && { error }) };
}

export function presentExec(result: ExecResult): z.output<typeof execAnswer> {
  return {
    exit_code: result.exitCode,
    stdout: result.stdout,
    stderr: result.stderr,
    execution_time: toSeconds(result.durationMs),
    outcome: result.outcome,
    died_of: result.diedOf,
    signal: result.signal,
    truncated: result.truncated,
    dropped_bytes: result.droppedBytes,
    processes_left: result.processesLeft,
  };
}

export function presentExit({ usage, ...exit }: ProcessExit): z.output<typeof exitAnswer> {
  return {
    exit_code: exit.exitCode,
    signal: exit.signal,
    execution_time: toSeconds(exit.durationMs),
    outcome: exit.outcome,
    died_of: exit.diedOf,
    processes_left: exit.processesLeft,
    usage: usage && {
      user_seconds: toSeconds(usage.userMs),
      system_seconds: toSeconds(usage.systemMs),
      max_rss_bytes: usage.maxRssBytes,
    },
  };
}

export function presentProcess(info: ProcessInfo): z.output<typeof processAnswer> {
  return {
    id: info.id,
    pid: info.pid,
    command: [...info.command],
    state: info.state,
    outcome: info.outcome,
    exit_code: info.exitCode,
    signal: info.signal,
    started_at: info.startedAt.toISOString(),
    pty: info.pty,
    first_seq: info.firstSeq,
    last_seq: info.lastSeq,
    readers: info.readers,
  };
}

export function presentFile(file: FileInfo): z.output<typeof fileAnswer> {
  return {
    path: file.path,
    name: file.name,
    type: file.type,
    size_bytes: file.sizeBytes,
    mode: file.mode.toString(8).padStart(4, '0'),
    modified_at: file.modifiedAt.toISOString(),
    uid: file.uid,
    gid: file.gid,
    link_target: file.linkTarget,
    etag: file.etag,
  };
}

/** To the microsecond: what dividing leaves below that is noise. */
function toSeconds(ms: number): number {
  return Math.round(ms * 1000) / 1e6;
}

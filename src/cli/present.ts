import type { ProcessInfo, SandboxInfo, SandboxStats } from '../index.js';

/* What `--json` prints: the same keys and units as the REST service's answers. */

export function presentSandbox(info: SandboxInfo) {
  return {
    id: info.id,
    name: info.name,
    container_id: info.containerId,
    project_name: info.projectName,
    state: info.state,
    image: info.image,
    owner: info.owner,
    created_at: info.createdAt.toISOString(),
    expires_at: info.expiresAt.toISOString(),
    started_at: info.startedAt?.toISOString() ?? null,
    finished_at: info.finishedAt?.toISOString() ?? null,
    exit_code: info.exitCode,
    timeout: info.ttlMs / 1000,
    idle_timeout: info.idleTimeoutMs === null ? null : info.idleTimeoutMs / 1000,
    memory_limit: info.limits.memoryBytes,
    cpu_limit: info.limits.cpus,
    pids_limit: info.limits.pids,
    nofile_limit: info.limits.nofile,
    network: info.network,
    workdir: info.workdir,
    user: info.user,
    runtime: info.runtime,
    metadata: info.metadata,
  };
}

export function presentStats(stats: SandboxStats) {
  return {
    memory_bytes: stats.memoryBytes,
    memory_limit_bytes: stats.memoryLimitBytes,
    cpu_seconds: stats.cpuSeconds,
    pids: stats.pids,
    network_received_bytes: stats.networkReceivedBytes,
    network_sent_bytes: stats.networkSentBytes,
    oom_kills: stats.oomKills,
    at: stats.at.toISOString(),
  };
}

export function presentProcess(process: ProcessInfo) {
  return {
    id: process.id,
    pid: process.pid,
    command: process.command,
    state: process.state,
    outcome: process.outcome,
    exit_code: process.exitCode,
    signal: process.signal,
    started_at: process.startedAt.toISOString(),
    pty: process.pty,
    first_seq: process.firstSeq,
    last_seq: process.lastSeq,
    readers: process.readers,
  };
}

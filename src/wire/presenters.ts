import type { z } from 'zod';

import type { ExecResult, FileInfo, ProcessExit, ProcessInfo, SandboxInfo, SandboxStats } from '../index.js';
import type { execAnswer, exitAnswer, fileAnswer, processAnswer, sandboxAnswer, statsAnswer } from './answers.js';

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

export function presentStats(stats: SandboxStats): z.output<typeof statsAnswer> {
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

export function presentExec(result: ExecResult): z.output<typeof execAnswer> {
  return {
    exit_code: result.exitCode,
    stdout: result.stdout,
    stderr: result.stderr,
    execution_time: toSeconds(result.durationMs),
    outcome: result.outcome,
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

import type { ON_EXPIRY } from './wire.js';

/** What a manager asks of the warden, and what it is told. `warden/PROTOCOL.md` says what each field means. */

export interface TerminalSize {
  readonly rows: number;
  readonly columns: number;
}

export interface SpawnRequest {
  /** 1 to 64 of `A-Za-z0-9_.-`. One that is in use or remembered starts nothing: see `RemoteStart.existing`. */
  readonly id: string;
  readonly argv: readonly string[];
  /** Whether `argv` names one of the warden's own operations, not a program. */
  readonly builtin?: boolean;
  readonly cwd: string;
  /** `NAME=value`, over the environment of PID 1. */
  readonly env: readonly string[];
  readonly uid: number;
  readonly gid: number;
  readonly timeoutMs?: number | undefined;
  /** How long it has from SIGTERM to SIGKILL after the timeout. */
  readonly graceMs: number;
  /** How much of stdout, and how much of stderr, is kept; the rest is counted. */
  readonly maxOutputBytes?: number | undefined;
  /** Whether it reads what `write` sends; otherwise its standard input is empty. */
  readonly stdin?: boolean;
  readonly tty?: TerminalSize | undefined;
  /** Whether it goes on when nobody reads its output, and the oldest is lost; otherwise it waits. */
  readonly runUnread?: boolean;
  /** Whether no piece of output ends within a UTF-8 character. */
  readonly text?: boolean;
  /** Whether the warden forgets it when it has ended and a reader that knows has let go of it. */
  readonly forget?: boolean;
  readonly nofile?: number | undefined;
}

export interface RemoteStart {
  /** The id was in use or remembered: nothing was started. */
  readonly existing: boolean;
  /** 0 when it has ended. */
  readonly pid: number;
  /** The first piece of output that is kept; `lastSeq + 1` when none is. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly startedAt: Date;
}

export type RemoteOutcome = 'exited' | 'signaled' | 'timed_out' | 'oom_killed' | 'killed' | 'disk_full';

export interface RemoteExit {
  readonly outcome: RemoteOutcome;
  /** `null` when it has none, because a signal ended it. */
  readonly exitCode: number | null;
  /** Linux's number; `null` when it was none. */
  readonly signal: number | null;
  /** Whether processes that it started outlived it. */
  readonly processesLeft: boolean;
  readonly durationMs: number;
  readonly userMs: number;
  readonly systemMs: number;
  readonly maxRssBytes: number;
  /** All that it printed, also what was over the limit. */
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
  /** The number of its last piece of output; 0 when it printed nothing. */
  readonly lastSeq: number;
}

export interface RemoteOutput {
  readonly seq: number;
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
}

export interface RemoteProcessInfo {
  readonly id: string;
  /** `null` when it has ended. */
  readonly pid: number | null;
  /** `null` while it runs. */
  readonly outcome: RemoteOutcome | null;
  readonly exitCode: number | null;
  readonly signal: number | null;
  readonly startedAt: Date;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly readers: number;
  /** The first 2 KiB of it. */
  readonly argv: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly builtin: boolean;
}

export interface RemoteUsage {
  /** Without what the kernel can take back. */
  readonly memoryBytes: number;
  /** `null` when none is known. */
  readonly memoryLimitBytes: number | null;
  readonly cpuSeconds: number;
  readonly processes: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
  readonly oomKills: number;
  /** Of the machine that the sandbox is on, or of gVisor's sandbox, which shows no other; `null` when it isn't known. */
  readonly machineAvailableBytes: number | null;
  /** Of the file system that the sandbox's root is on; `null` when it isn't known. */
  readonly diskFreeBytes: number | null;
  /** What the sandbox has written, as it was last measured, and how many files that is; `null` when it never was. */
  readonly diskBytes: number | null;
  readonly inodes: number | null;
}

/** What the warden noted by itself, each ten seconds. */
export interface RemoteSample {
  readonly at: Date;
  /** Without what the kernel can take back. */
  readonly memoryBytes: number;
  readonly cpuSeconds: number;
  readonly processes: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
}

/** What the warden does with the sandbox when its lease or its idle timeout ends. */
export type OnExpiry = (typeof ON_EXPIRY)[number];

export interface RemoteRecord {
  readonly version: bigint;
  /** How long the sandbox has yet; `null` when it has no lease, 0 when it has ended. */
  readonly leaseLeftMs: number | null;
  /** `null` when it has no idle timeout. */
  readonly idleMs: number | null;
  /** The lease that it gets when it is started after the old one ended; `null` when it gets none. */
  readonly renewMs: number | null;
  readonly onExpiry: OnExpiry;
  /** Until the end of its longest lifetime, which no lease goes beyond; `null` when it has none. */
  readonly lastLeftMs: number | null;
  /** Whether anybody ever set its lease: until then it has only the time to be set up. */
  readonly taken: boolean;
  readonly blob: Uint8Array;
}

export interface RecordChange {
  /** The version that it must have; one that it hasn't is a `RemoteError` with EAGAIN (11). Any, when left out. */
  readonly version?: bigint | undefined;
  /** A new lease from now; the old one goes on when left out. */
  readonly ttlMs?: number | undefined;
  /** What it is granted anew when it is started after its lease ended; as it was when left out. */
  readonly renewMs?: number | undefined;
  /** `null` for none; as it was when left out. */
  readonly idleMs?: number | null | undefined;
  /** As it was when left out. */
  readonly onExpiry?: OnExpiry | undefined;
  /** The end of its longest lifetime, from now; as it was when left out. */
  readonly lastMs?: number | undefined;
  /** 32 KiB at the most; as it was when left out. */
  readonly blob?: Uint8Array | undefined;
}

/** At which step a request failed: 0 the request itself, 1 making pipes, terminal or process, 2 its user or limits, 3 its
 * working directory, 4 its program. */
export type RemoteStage = 0 | 1 | 2 | 3 | 4;

/** The warden's own answer that a request failed. `text` is the sandbox's: bounded and escaped, yet not to be trusted. */
export class RemoteError extends Error {
  override readonly name = 'RemoteError';
  /** Linux's number. */
  readonly errno: number;
  readonly stage: RemoteStage;
  readonly text: string;

  constructor(failure: { readonly errno: number; readonly stage: RemoteStage; readonly text: string }) {
    super(`The warden answered with error ${failure.errno} at stage ${failure.stage}: ${failure.text}`);
    this.errno = failure.errno;
    this.stage = failure.stage;
    this.text = failure.text;
  }
}

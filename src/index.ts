export { SandboxManager, type ManagerOptions, type SandboxList } from './manager.js';
export {
  Sandbox,
  type CallOptions,
  type CopyFromOptions,
  type CopyOptions,
  type SandboxInfo,
  type SandboxStats,
} from './sandbox.js';
export type { Command, ExecOptions, ExecResult, SpawnOptions } from './process/process.js';
export { SandboxProcess, type ProcessOutput } from './process/sandbox-process.js';
export type { Outcome, ProcessExit, ProcessUsage } from './process/process-exit.js';
export { SandboxProcesses, type ProcessInfo } from './process/processes.js';
export type { Stdin } from './process/stdin.js';
export { SandboxFiles, type OpenFile, type OpenOptions, type WriteOptions } from './files/files.js';
export type { FileEvent, FileInfo } from './files/file-entries.js';
export type { CopyResult } from './archive/archive.js';
export type { ReapedSandbox } from './reaper.js';
export type { ExpiryReason } from './expiry.js';
export type { Engine, EngineInfo } from './engine/engine.js';
export {
  SandyardError,
  isSandyardError,
  ERROR_CODES,
  type ErrorCode,
  type ErrorDetails,
  type InputIssue,
} from './errors.js';
export type { SignalName } from './signals.js';
export type { CreateOptions, ListOptions } from './schemas.js';
export type { Limits } from './config.js';
export type { Log } from './log.js';

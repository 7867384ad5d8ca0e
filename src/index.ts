export { SandboxManager, type ManagerOptions, type SandboxList } from './manager.js';
export {
  Sandbox,
  type CallOptions,
  type CopyFromOptions,
  type CopyOptions,
  type SandboxInfo,
  type SandboxStats,
} from './sandbox.js';
export type { Command, ExecOptions, ExecResult, SpawnOptions } from './process.js';
export { SandboxProcess, type Outcome, type ProcessExit, type ProcessOutput, type Stdin } from './sandbox-process.js';
export { SandboxFiles, type FileInfo } from './files.js';
export type { CopyResult } from './archive/archive.js';
export type { ReapedSandbox } from './reaper.js';
export type { ExpiryReason } from './expiry.js';
export type { Engine, EngineInfo } from './engine/engine.js';
export { SandyardError, isSandyardError, ERROR_CODES, type ErrorCode, type InputIssue } from './errors.js';
export type { CreateOptions, ListOptions } from './schemas.js';
export type { Limits } from './config.js';
export type { Log } from './log.js';

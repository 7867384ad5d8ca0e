export { SandboxManager } from './manager.js';
export type { CreateCallOptions, ManagerOptions, SandboxList, TenantOptions } from './manager-options.js';
export { Sandbox, type SandboxStats, type StopOptions } from './sandbox.js';
export type { CallOptions } from './engine/engine.js';
export {
  SandboxEgress,
  type EgressDecision,
  type EgressInfo,
  type EgressLog,
  type EgressLogEntry,
} from './egress/sandbox-egress.js';
export { SandboxSecrets } from './egress/sandbox-secrets.js';
export type { EgressOptions, EgressPolicy } from './egress-schemas.js';
export type { SecretTraits } from './secret-schemas.js';
export type { SandboxInfo } from './sandbox-info.js';
export type { Attestation } from './attest/attestation.js';
export type { AttestationCheck } from './attest/judge.js';
export { isHealthy, type Diagnosis } from './doctor/doctor.js';
export type { DoctorCheck } from './doctor/checks.js';
export { checkService } from './doctor/service-checks.js';
export type { CopyFromOptions, CopyOptions } from './copy.js';
export type { PoolOptions } from './create/warm-sandboxes.js';
export type { LifecycleEvent, LifecycleEventType, LifecycleReason, EventsOptions } from './fleet/lifecycle.js';
export type { ManagerGauges, Telemetry } from './telemetry.js';
export { withContext, type CallContext } from './context.js';
export type { Command, ExecOptions, ExecResult, SpawnOptions } from './process/process.js';
export { SandboxProcess, type ProcessOutput } from './process/sandbox-process.js';
export type { DiedOf, Outcome, ProcessExit, ProcessUsage } from './process/process-exit.js';
export { SandboxProcesses, type ProcessInfo } from './process/processes.js';
export type { Stdin } from './process/stdin.js';
export { SandboxFiles, type OpenFile, type OpenOptions, type WriteOptions } from './files/files.js';
export type { FileEvent, FileInfo } from './files/file-entries.js';
export type { CopyResult } from './archive/archive.js';
export type { PruneResult, ReapedSandbox } from './fleet/reaper.js';
export type { ExpiryReason } from './record/expiry.js';
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
export type { EgressSettings } from './egress-settings.js';
export type { IsolationSettings, Profile } from './isolation.js';
export type { Log } from './log.js';

import type { Scope } from '../access-settings.js';

/*
 * What each route needs, by the id of its operation. `read` looks, and changes nothing; `exec` runs commands and talks to what
 * runs; `files` reads and writes files, as both are the sandbox user's own; `lifecycle` makes, changes and ends sandboxes; `admin`
 * is for what concerns all owners. A route that isn't here is for admins only.
 */
const TABLE: Readonly<Record<Scope, readonly string[]>> = {
  read: [
    'listSandboxes',
    'inspectSandbox',
    'attestSandbox',
    'getEgress',
    'egressLog',
    'checkEgress',
    'listSecrets',
    'waitForSandbox',
    'sandboxStats',
    'sandboxStatsHistory',
    'readEvents',
    'listProcesses',
    'inspectProcess',
    'waitForProcess',
    'readOutput',
  ],
  exec: [
    'execute',
    'startProcess',
    'writeInput',
    'signalProcess',
    'killProcess',
    'removeProcess',
    'resizeTerminal',
    'openTerminal',
    'issueTerminalTicket',
  ],
  files: [
    'readFile',
    'writeFile',
    'appendToFile',
    'removeFile',
    'listFiles',
    'statFile',
    'makeDirectory',
    'renameFile',
    'setFileMode',
    'watchFiles',
    'readArchive',
    'writeArchive',
    'issueFileLink',
  ],
  lifecycle: [
    'createSandbox',
    'destroySandbox',
    'startSandbox',
    'stopSandbox',
    'restartSandbox',
    'pauseSandbox',
    'unpauseSandbox',
    'renewSandbox',
    'setEgress',
    'setSecret',
    'removeSecret',
  ],
  admin: ['issueToken', 'cleanup', 'cleanupSandboxes', 'diagnose', 'metrics'],
};

const SCOPE_BY_OPERATION: ReadonlyMap<string, Scope> = new Map(
  (Object.entries(TABLE) as [Scope, readonly string[]][]).flatMap(([scope, ids]) => ids.map((id) => [id, scope])),
);

export function scopeOf(operationId: string): Scope {
  return SCOPE_BY_OPERATION.get(operationId) ?? 'admin';
}

/** Whether the table says it. */
export function isInTable(operationId: string): boolean {
  return SCOPE_BY_OPERATION.has(operationId);
}

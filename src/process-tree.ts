import { SandyardError } from './errors.js';
import type { Engine } from './engine/engine.js';

/**
 * What our own commands in a sandbox run with, whatever the image or its creator has set: programs from where user code
 * can't put any, and nothing that has other code loaded or changes what they do.
 */
export const OWN_ENVIRONMENT = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C',
  LD_PRELOAD: '',
  LD_LIBRARY_PATH: '',
  LD_AUDIT: '',
  ENV: '',
  BASH_ENV: '',
  TAR_OPTIONS: '',
  GREP_OPTIONS: '',
} as const;

/** The variable that marks every process of one command; children inherit it. */
export const PROCESS_MARK = 'SANDYARD_PROCESS';

/** The signals that can be sent by name: POSIX's, as in `signal.h`, with Linux's numbers. */
const SIGNALS = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGWINCH: 28,
  SIGSYS: 31,
} as const;

export type SignalName = keyof typeof SIGNALS;

export function isSignalName(name: string): name is SignalName {
  return Object.hasOwn(SIGNALS, name);
}

/** The signal that an exit code stands for by the shell's convention of 128 + n; `null` when it is none. */
export function signalOfExitCode(exitCode: number): SignalName | null {
  const found = Object.entries(SIGNALS).find(([, number]) => exitCode === 128 + number);
  return found === undefined ? null : (found[0] as SignalName);
}

/** Enough for the slowest: a fork bomb at its limit under a fraction of a CPU. */
const DELIVERY_MS = 15_000;

/*
 * Finds everything that a command started: what carries its mark in its environment, what is in a session of such a
 * process, and the children of all these, found again until there are no more. Before SIGKILL each is stopped, so that
 * none can fork between being found and being killed. It runs as the command's own user, which may signal just its own.
 *
 * It needs no more than a POSIX shell and grep. Signals go by number, the one form of kill that all shells take with -1. At the pids limit it can't fork even grep; then it kills everything
 * of this user, which needs no fork: a sandbox at its limit has nothing else to offer.
 *
 * Out of reach is only a process that replaced its environment and its session and whose parents have all ended.
 */
const SCRIPT = `
signal=$1 mark=$2
scan() {
  found=' ' sessions=' '
  files=$(grep -lsxzF -e "$mark" /proc/[0-9]*/environ || :) || return 1
  for file in $files; do
    pid=\${file#/proc/} pid=\${pid%/environ}
    [ "$pid" = "$$" ] && continue
    read -r line 2>/dev/null <"/proc/$pid/stat" || continue
    set -- \${line##*) }
    case $1 in Z|X) continue;; esac
    found="$found$pid "
    [ "$4" -gt 1 ] && sessions="$sessions$4 "
  done
  more=1
  while [ $more = 1 ]; do
    more=0
    for dir in /proc/[0-9]*; do
      pid=\${dir#/proc/}
      case $found in *" $pid "*) continue;; esac
      read -r line 2>/dev/null <"$dir/stat" || continue
      set -- \${line##*) }
      case $1 in Z|X) continue;; esac
      case $found in *" $2 "*) found="$found$pid " more=1; continue;; esac
      case $sessions in *" $4 "*) found="$found$pid " more=1;; esac
    done
  done
}
everything() { kill "-$signal" -1 2>/dev/null; exit 0; }
trap everything EXIT
scan || everything
if [ "$signal" = 9 ]; then
  round=0
  while [ "$found" != ' ' ] && [ $round -lt 50 ]; do
    before=
    while [ "$found" != "$before" ]; do
      kill -19 $found 2>/dev/null
      before=$found
      scan || everything
    done
    kill -9 $found 2>/dev/null
    scan || everything
    round=$((round + 1))
  done
else
  [ "$found" = ' ' ] || kill "-$signal" $found 2>/dev/null
fi
trap - EXIT
exit 0
`;

/**
 * Sends a signal to everything that the command with this id started in the container, and to nothing else. Throws
 * `engine_timeout` when the sandbox doesn't take it.
 */
export async function signalTree(
  engine: Engine,
  { container, user, processId, signal }: { container: string; user: string; processId: string; signal: SignalName },
): Promise<void> {
  const exec = await engine.exec(container, {
    command: ['/bin/sh', '-c', SCRIPT, 'sh', String(SIGNALS[signal]), `${PROCESS_MARK}=${processId}`],
    env: Object.entries(OWN_ENVIRONMENT).map(([name, value]) => `${name}=${value}`),
    user,
    workdir: '/',
    stdin: false,
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    exec.close();
  }, DELIVERY_MS);
  try {
    for await (const _ of exec.output());
    const end = await exec.end();
    if (end.kind === 'container_died' || end.exitCode === 0) return;
    throw new SandyardError('engine_error', `Could not send ${signal}: the sandbox answered ${end.exitCode}.`);
  } catch (error) {
    if (!late) throw error;
    throw new SandyardError('engine_timeout', `The sandbox did not take ${signal} within ${DELIVERY_MS / 1000} s.`, {
      hint: 'Stop and start the sandbox, or destroy it.',
      cause: error,
    });
  } finally {
    clearTimeout(timer);
  }
}

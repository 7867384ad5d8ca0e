import { SandyardError, type ErrorCode, type ErrorDetails } from '../errors.js';

/** What a call was about, for messages. */
export interface CallSubject {
  /** What we were doing: "create the container". */
  readonly doing: string;
  /** The image it was about, where an image can be missing. */
  readonly image?: string | undefined;
  /** The container it was about. */
  readonly container?: string | undefined;
  /** What it was to be called from now on. */
  readonly newName?: string | undefined;
}

/** What to look at when the program of a sandbox itself doesn't run. */
export const WARDEN_HINT =
  "It is Sandyard's warden, which the sandbox image brings, or a volume where an image has none. It must be of the manager's version and the engine's architecture: `npm run setup` builds it anew.";

export const LESS_MEMORY_HINT = 'End what uses it first, or ask for more.';

interface Rule {
  readonly code: ErrorCode;
  readonly status?: number;
  readonly text?: RegExp;
  readonly message: (subject: CallSubject, text: string) => string;
  readonly hint?: string;
  readonly details?: ErrorDetails;
}

/**
 * The engine's answers, by HTTP status and text: the API has no codes of its own, and says 404 for a missing image as
 * for a missing container. The first rule that fits wins.
 */
const ANSWER_RULES: readonly Rule[] = [
  {
    code: 'out_of_disk',
    text: /no space left on device|disk quota exceeded/i,
    message: ({ doing }) => `The engine could not ${doing}: its disk is full.`,
    hint: 'Free space where the engine keeps its data (`docker system df` shows what uses it), then try again.',
  },
  {
    code: 'image_not_found',
    status: 404,
    text: /no such image|image.*not (known|found)|manifest unknown/i,
    message: ({ image }) => `The engine does not have the image ${image ?? 'asked for'}.`,
    hint: 'Pull it (`docker pull IMAGE`), or run `npm run setup` to build the default image.',
  },
  {
    code: 'sandbox_not_found',
    status: 404,
    message: ({ container }) => `There is no container ${container ?? 'of that name'} on the engine.`,
    hint: 'It may have been removed or have expired; list the sandboxes to see which there are.',
  },
  {
    code: 'name_conflict',
    status: 409,
    text: /already in use|name.*conflict|network with name \S+ already exists/i,
    message: ({ container, newName }) => `The container name ${newName ?? container ?? ''} is taken.`,
    hint: 'List the containers for the one that has it (`docker ps -a`).',
  },
  {
    code: 'wrong_state',
    text: /container \S+ is paused|cannot start a paused container/i,
    message: ({ doing, container }) => `Could not ${doing}: the container ${container ?? ''} is paused.`,
    hint: 'Unpause the sandbox first.',
    details: { state: 'paused' },
  },
  {
    code: 'wrong_state', // whatever the status: while a container is being removed it is 500
    text: /container \S+ is (not running|restarting)/i,
    message: ({ doing, container }, text) => {
      const state = /is (not running|restarting)/.exec(text)?.[0] ?? 'is not running';
      return `Could not ${doing}: the container ${container ?? ''} ${state}.`;
    },
    hint: 'Inspect the sandbox for its state; a stopped one must be started first.',
  },
  {
    code: 'wrong_state',
    text: /unable to set memory limit/i, // what a runtime says where the kernel refuses: cgroup v1
    message: ({ container }) => `The container ${container ?? ''} uses more memory than it is to be limited to.`,
    hint: LESS_MEMORY_HINT,
  },
  {
    code: 'engine_error',
    text: /cannot update container.*(\bUsage: |not (supported|implemented)|unimplemented)/i,
    message: ({ container }) =>
      `The runtime of the container ${container ?? ''} can't change the limits of a container.`,
    hint: 'Make another sandbox with the limits that it is to have. runc and crun can change them, gVisor can not.',
  },
  {
    code: 'wrong_state',
    status: 409,
    message: ({ doing, container }, text) => `Could not ${doing} (${container ?? 'container'}): ${text}`,
    hint: 'Inspect the sandbox for its state; a stopped one must be started first.',
  },
  {
    code: 'validation_failed',
    text: /cannot mkdir|not a directory|file name too long/i, // with the host's own path, which is nobody's business
    message: ({ doing }) => `The engine could not ${doing}: the working directory can't be one.`,
    hint: 'Use another workdir, below /workspace for example.',
  },
  {
    code: 'engine_error',
    text: /bind source path does not exist/i,
    message: ({ doing }, text) => `The engine could not ${doing}: ${/bind source path.*/i.exec(text)?.[0]}`,
    hint: "SANDBOX_SOCKET_DIR must be a directory of the engine's own machine, or `none` where that is another one. Make it again where it was removed.",
  },
  {
    code: 'validation_failed',
    text: /unknown runtime|invalid runtime name/i,
    message: ({ doing }, text) => `The engine could not ${doing}: ${text}`,
    hint: 'Use one of the runtimes that `docker info` lists, or register it in the daemon.json of the engine.',
  },
  {
    code: 'engine_error',
    text: /seccomp is not enabled/i,
    message: ({ doing }) => `The engine could not ${doing}: its kernel can't filter system calls (seccomp).`,
    hint: 'Use a kernel with CONFIG_SECCOMP_FILTER, and an engine that is built with seccomp.',
  },
  {
    code: 'engine_error',
    text: /OCI runtime.*(exec format error|executable file not found|no such file or directory|permission denied)/i,
    message: ({ doing, container }, text) => `The engine could not ${doing} ${container ?? 'a container'}: ${text}`,
    hint: WARDEN_HINT,
  },
  {
    code: 'limit_exceeded',
    text: /range of cpus|cpus available|memory limit allowed|minimum memory|pids limit|kernel does not support/i,
    message: ({ doing }, text) => `The engine could not ${doing}: ${text}`,
    hint: 'Ask for less, or raise what the engine has.',
  },
];

/**
 * Answers that are no failure to who asked for what is so already, or who can do without. By text alone where the status
 * differs from version to version.
 */
export const saysThat = {
  isPaused: (error: unknown) => /is already paused/i.test(readFault(error).text),
  /** Of one that doesn't run, too. */
  isNotPaused: (error: unknown) => /is not paused/i.test(readFault(error).text),
  mustNotBeRemoved: (error: unknown) => /cannot remove a (running|paused) container/i.test(readFault(error).text),
  /** It wrote what it knows of the container while it removed that. */
  wasBusyWithIt: (error: unknown) => /unable to remove filesystem.*directory not empty/i.test(readFault(error).text),
  hasThatName: (error: unknown) => /with the same name as its current name/i.test(readFault(error).text),
  hasNoSuchFile: (error: unknown) => /could not find the file|: not a directory/i.test(readFault(error).text),
  /** In the headers of an answer, which the client ends then. */
  saysTooMuch: (error: unknown) => readFault(error).code === 'HPE_HEADER_OVERFLOW',
  hasNone: (error: unknown) => readFault(error).statusCode === 404,
  overlaps: (error: unknown) => /pool overlaps/i.test(readFault(error).text),
  isConnected: (error: unknown) => /endpoint with name .* already exists/i.test(readFault(error).text),
  isUsed: (error: unknown) => [403, 409].includes(readFault(error).statusCode ?? 0),
} as const;

/** Faults on the way to the engine, by Node's code. */
const CONNECTION_CODES: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ENOENT: 'the socket does not exist',
  ECONNRESET: 'it closed the connection',
  EPIPE: 'it closed the connection',
  EACCES: 'permission denied on the socket',
  EPERM: 'permission denied on the socket',
  ENOTFOUND: 'its host name is unknown',
  EAI_AGAIN: 'its host name could not be looked up',
  EHOSTUNREACH: 'its host cannot be reached',
  ENETUNREACH: 'its host cannot be reached',
  ETIMEDOUT: 'it did not answer',
};

/** Turns whatever a call to the engine threw into a SandyardError. The only place that knows the engine's words. */
export function translateEngineError(error: unknown, subject: CallSubject): SandyardError {
  if (error instanceof SandyardError) return error;
  const { statusCode, code, text } = readFault(error);
  if (statusCode === undefined) return connectionError({ error, code, text });
  for (const rule of ANSWER_RULES) {
    if (rule.status !== undefined && rule.status !== statusCode) continue;
    if (rule.text !== undefined && !rule.text.test(text)) continue;
    return new SandyardError(rule.code, rule.message(subject, text), {
      hint: rule.hint ?? '',
      cause: error,
      ...(rule.details && { details: rule.details }),
    });
  }
  return new SandyardError('engine_error', `The engine could not ${subject.doing}: ${text}`, {
    hint: `It answered with HTTP status ${statusCode}; the engine's own log says more.`,
    cause: error,
  });
}

export function engineUnavailable(why: string, cause?: unknown): SandyardError {
  return new SandyardError('engine_unavailable', `The Docker engine cannot be reached: ${why}.`, {
    hint: 'Start it (`npm run setup` does so where it can), or point DOCKER_HOST at one.',
    cause,
  });
}

/** Whether the connection failed before the engine can have acted on the call. */
export function failedToConnect(error: unknown): boolean {
  return ['ECONNREFUSED', 'ENOENT', 'EACCES', 'ENOTFOUND'].includes(readFault(error).code ?? '');
}

/** Whether a kept-alive connection turned out to be dead: the engine was restarted since its last use. */
export function lostConnection(error: unknown): boolean {
  return ['ECONNRESET', 'EPIPE'].includes(readFault(error).code ?? '');
}

function connectionError({ error, code, text }: { error: unknown; code: string | undefined; text: string }) {
  if (code !== undefined && /CERT|SELF_SIGNED|ERR_TLS|ERR_SSL|ERR_OSSL/.test(code)) {
    return new SandyardError('engine_unavailable', `The Docker engine's TLS certificate was not accepted: ${text}`, {
      hint: 'Check ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH, and that DOCKER_HOST uses a name in the certificate.',
      cause: error,
    });
  }
  const why = (code !== undefined ? CONNECTION_CODES[code] : undefined) ?? text;
  return engineUnavailable(why, error);
}

function readFault(error: unknown): { statusCode: number | undefined; code: string | undefined; text: string } {
  const fault = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>;
  const body = fault['json'];
  const bodyText = typeof body === 'object' && body !== null ? (body as Record<string, unknown>)['message'] : undefined;
  const text = [bodyText, fault['message'], fault['reason']].find((value) => typeof value === 'string' && value !== '');
  return {
    statusCode: typeof fault['statusCode'] === 'number' ? fault['statusCode'] : undefined,
    code: typeof fault['code'] === 'string' ? fault['code'] : undefined,
    // What the engine says can quote what a sandbox named: one line, bounded.
    text: String(text ?? error)
      .replaceAll(/\s+/g, ' ')
      .slice(0, 500),
  };
}

/**
 * Every error that Sandyard throws has one of these codes. The table is the single place that says which HTTP status
 * a code has and whether the same call may succeed when it is simply made again; the compiler keeps it complete.
 */
const ERROR_TABLE = {
  // The request itself
  invalid_request: { status: 400, retryable: false, title: 'The request is malformed' },
  unauthorized: { status: 401, retryable: false, title: 'A valid token is needed' },
  forbidden: { status: 403, retryable: false, title: 'Not allowed' },
  route_not_found: { status: 404, retryable: false, title: 'There is no such route' },
  method_not_allowed: { status: 405, retryable: false, title: 'The route has no such method' },
  payload_too_large: { status: 413, retryable: false, title: 'The body is too large' },
  unsupported_media_type: { status: 415, retryable: false, title: 'The body has an unsupported media type' },
  validation_failed: { status: 422, retryable: false, title: 'The input is not valid' },
  limit_exceeded: { status: 422, retryable: false, title: 'A configured ceiling was exceeded' },
  idempotency_mismatch: { status: 422, retryable: false, title: 'The idempotency key was used for another request' },
  idempotency_in_progress: { status: 409, retryable: true, title: 'A request with this idempotency key is under way' },
  rate_limited: { status: 429, retryable: true, title: 'Too many requests in a minute' },
  aborted: { status: 499, retryable: true, title: 'The caller gave up' },

  // Sandboxes
  sandbox_not_found: { status: 404, retryable: false, title: 'There is no such sandbox' },
  name_conflict: { status: 409, retryable: false, title: 'The name is taken' },
  wrong_state: { status: 409, retryable: false, title: 'The sandbox is not in the needed state' },
  over_capacity: { status: 429, retryable: true, title: 'A ceiling is reached or the queue is full' },
  host_exhausted: { status: 503, retryable: true, title: 'The machine has too little memory or disk left' },
  sandbox_died: { status: 502, retryable: false, title: 'The sandbox ended during the call' },

  // Commands
  process_not_found: { status: 404, retryable: false, title: 'There is no such process' },
  output_lost: { status: 410, retryable: false, title: 'That part of the output is no longer kept' },
  command_not_found: { status: 422, retryable: false, title: 'The command was not found in the sandbox' },
  command_not_executable: { status: 422, retryable: false, title: 'The command could not be executed' },
  workdir_not_found: { status: 422, retryable: false, title: 'The working directory does not exist' },

  // Files
  file_not_found: { status: 404, retryable: false, title: 'There is no such file' },
  file_exists: { status: 409, retryable: false, title: 'The file exists' },
  is_a_directory: { status: 409, retryable: false, title: 'The path is a directory' },
  not_a_file: { status: 409, retryable: false, title: 'The path is not a regular file' },
  not_a_directory: { status: 409, retryable: false, title: 'The path is not a directory' },
  permission_denied: { status: 403, retryable: false, title: 'The sandbox user may not do that' },
  unsafe_archive: {
    status: 422,
    retryable: false,
    title: 'The archive has an entry that could write outside its target',
  },
  archive_too_large: { status: 413, retryable: false, title: 'The archive grew past its limit' },
  precondition_failed: { status: 412, retryable: false, title: 'The file is not as the condition demands' },
  range_not_satisfiable: { status: 416, retryable: false, title: 'The range lies outside the file' },
  file_operation_failed: { status: 500, retryable: false, title: 'The file operation failed' },

  // Ports
  port_not_open: { status: 502, retryable: true, title: 'Nothing in the sandbox listens on the port' },

  // The engine
  image_not_found: { status: 404, retryable: false, title: 'The engine does not have the image' },
  engine_unavailable: { status: 503, retryable: true, title: 'The Docker engine cannot be reached' },
  engine_timeout: { status: 504, retryable: true, title: 'The Docker engine did not answer in time' },
  engine_error: { status: 502, retryable: false, title: 'The Docker engine refused' },
  out_of_disk: { status: 507, retryable: false, title: 'The disk is full' },
  channel_failed: { status: 502, retryable: false, title: 'What came from the sandbox was not the protocol' },

  // Us
  config_invalid: { status: 500, retryable: false, title: 'The configuration is not valid' },
  manager_closed: { status: 503, retryable: false, title: 'The manager is closed' },
  internal: { status: 500, retryable: false, title: 'An unexpected error' },
} as const satisfies Record<string, ErrorClass>;

interface ErrorClass {
  readonly status: number;
  readonly retryable: boolean;
  readonly title: string;
}

export type ErrorCode = keyof typeof ERROR_TABLE;

export const ERROR_CODES = Object.keys(ERROR_TABLE) as ErrorCode[];

/** HTTP status, retryability and a title that never changes, for a code. */
export function describeError(code: ErrorCode): ErrorClass {
  return ERROR_TABLE[code];
}

/** One thing that is wrong with an input: the path to it (`['limits', 'memory']`) and what is wrong. */
export interface InputIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

export interface SandyardErrorOptions {
  /** What to do next, as a sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
  /** The single faults of an input; only with `validation_failed` and `limit_exceeded`. */
  readonly issues?: readonly InputIssue[];
  /** What a program needs to go on, such as `firstSeq` with `output_lost`. Small, and safe to show. */
  readonly details?: ErrorDetails;
}

export type ErrorDetails = Readonly<Record<string, string | number | boolean | null>>;

/**
 * The one error class of Sandyard. `message` says what failed and on what, `hint` what to do next, `code` is stable and
 * meant for programs. What made it fail, where there is more to know, is in `cause`.
 */
export class SandyardError extends Error {
  override readonly name = 'SandyardError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly issues: readonly InputIssue[];
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, options: SandyardErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.hint = options.hint;
    this.issues = options.issues ?? [];
    this.details = options.details ?? {};
  }

  get status(): number {
    return ERROR_TABLE[this.code].status;
  }

  /** Whether the same call may succeed when it is made again. */
  get retryable(): boolean {
    return ERROR_TABLE[this.code].retryable;
  }
}

export function isSandyardError(error: unknown, code?: ErrorCode): error is SandyardError {
  return error instanceof SandyardError && (code === undefined || error.code === code);
}

/** What `answer` gives; `undefined` where it fails because the sandbox, container or command is gone. */
export async function unlessGone<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (isSandyardError(error, 'sandbox_not_found')) return undefined;
    throw error;
  }
}

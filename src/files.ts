import { Readable } from 'node:stream';
import { customAlphabet } from 'nanoid';
import { z } from 'zod';

import { SandyardError, type ErrorCode } from './errors.js';
import { OWN_ENVIRONMENT } from './process-tree.js';
import { abandon, keepFailure, spawn } from './process.js';
import type { ProcessTarget, SandboxProcess, Stdin } from './sandbox-process.js';
import { fields, formatSize, parseInput } from './schemas.js';

/** Moving bytes may take as long as it takes; this only ends what hangs. */
const TRANSFER_TIMEOUT_MS = 6 * 3_600_000;
const READ_MAX_BYTES = 64 * 1024 * 1024;
const LIST_MAX_BYTES = 64 * 1024 * 1024;
const STDERR_KEPT_BYTES = 4096;
const MAX_DATE_MS = 8.64e15;

const newNonce = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 32);

export interface FileInfo {
  readonly path: string;
  readonly name: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
  readonly sizeBytes: number;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly modifiedAt: Date;
  readonly uid: number;
  readonly gid: number;
  /** Where a symlink points, as it is written in it. */
  readonly linkTarget: string | null;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

/*
 * Each operation is one command in the sandbox, run as the sandbox's user: what that user may not do, it can't do
 * through us either, and every link is resolved inside. Names are arguments, never parts of a script.
 */
const READ = `
if [ -d "$1" ]; then echo "$1: Is a directory" >&2; exit 1; fi
if [ -e "$1" ] && ! [ -f "$1" ]; then echo "$1: Not a regular file" >&2; exit 1; fi
exec cat -- "$1"`;

/*
 * $1 path, $2 mode or nothing, $3 nonce. Writes a file of its own beside the target and renames it over the target, so
 * that there is always the old file or the new one. The nonce comes after the data: without it the input broke off, and
 * an end of file alone doesn't tell that. A link is written through, as by open(2); the x keeps $() from
 * cutting newlines off a name.
 */
const WRITE = `
path=$1
case $path in */) echo "$1: Is a directory" >&2; exit 1;; esac
if [ -L "$path" ] && ! [ -e "$path" ] && ! readlink -f -- "$path" >/dev/null; then
  echo "$1: Too many levels of symbolic links" >&2; exit 1
fi
if [ -L "$path" ]; then path=$(readlink -f -- "$path" && printf x) || exit 1; path=\${path%?x}; fi
if [ -d "$path" ]; then echo "$1: Is a directory" >&2; exit 1; fi
dir=\${path%/*}
mkdir -p -- "\${dir:-/}" || exit 1
mode=$2
if [ -z "$mode" ]; then
  mode=644
  if [ -e "$path" ]; then mode=$(stat -c %a -- "$path") || exit 1; fi
fi
if [ -e "$path" ] && ! [ -w "$path" ]; then echo "$1: Permission denied" >&2; exit 1; fi
temp=$(mktemp "\${dir:-/}/.sandyard-XXXXXXXX") || exit 1
trap 'rm -f -- "$temp"' EXIT
trap 'exit 143' TERM INT HUP
cat >"$temp" || exit 1
size=$(stat -c %s -- "$temp")
if [ "$(tail -c 32 -- "$temp")" != "$3" ]; then echo "the input broke off" >&2; exit 1; fi
truncate -s $((size - 32)) -- "$temp" && chmod "$mode" -- "$temp" && mv -fT -- "$temp" "$path" || exit 1
trap - EXIT`;

/** Fields and entries end in NUL, the one byte that no name has. */
const FIND_FORMAT = String.raw`%y\0%s\0%m\0%T@\0%U\0%G\0%l\0%P\0`;
const FIND_FIELDS = 8;

const LIST = `
if ! [ -e "$1" ]; then echo "$1: No such file or directory" >&2; exit 1; fi
if ! [ -d "$1" ]; then echo "$1: Not a directory" >&2; exit 1; fi
if ! [ -r "$1" ] || ! [ -x "$1" ]; then echo "$1: Permission denied" >&2; exit 1; fi
find -H "$1" -mindepth 1 -maxdepth "$2" -printf "$3" 2>/dev/null || :`;

/** With the directory above first: what is in a directory must not go when the directory itself can't. */
const REMOVE = `
dir=\${1%/*}
if [ -e "$1" ] && ! [ -w "\${dir:-/}" ]; then echo "$1: Permission denied" >&2; exit 1; fi
if [ -d "$1" ] && ! [ -L "$1" ] && [ "$2" = no ]; then exec rmdir -- "$1"; fi
if [ -e "$1" ] || [ -L "$1" ]; then exec rm -rf -- "$1"; fi
exec ls -d -- "$1"`;

const READ_ARCHIVE = `
if [ -d "$1" ]; then exec tar -C "$1" -cf - .; fi
case $1 in */) echo "$1: Not a directory" >&2; exit 1;; esac
dir=\${1%/*}
exec tar -C "\${dir:-/}" -cf - -- "\${1##*/}"`;

/** A directory that may not be written to gets its mode last: an archive may have what is in it anywhere after it. */
const WRITE_ARCHIVE = `
mkdir -p -- "$1" || exit 1
umask 0
exec tar -C "$1" -xf - --no-same-owner --no-same-permissions --delay-directory-restore`;

/** The files of one sandbox. All paths are absolute; all operations have the rights of the sandbox's user. */
export class SandboxFiles {
  readonly #target: ProcessTarget;

  /** @internal Made by a sandbox. */
  constructor(target: ProcessTarget) {
    this.#target = target;
  }

  /**
   * The content of a file, of at most `maxBytes` (64 MiB by default). Throws `file_not_found`, `is_a_directory`,
   * `permission_denied`, `limit_exceeded`.
   */
  async read(path: string, options: CallOptions & { maxBytes?: number } = {}): Promise<Uint8Array> {
    const { maxBytes = READ_MAX_BYTES, signal } = options;
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of await this.readStream(path, { signal })) {
      bytes += (chunk as Uint8Array).length;
      if (bytes > maxBytes) {
        throw new SandyardError('limit_exceeded', `${quote(path)} has more than ${formatSize(maxBytes)}.`, {
          hint: 'Read it with readStream(), or raise maxBytes.',
        });
      }
      chunks.push(chunk as Uint8Array);
    }
    return Buffer.concat(chunks);
  }

  /** The same as text, decoded as UTF-8. */
  async readText(path: string, options: CallOptions & { maxBytes?: number } = {}): Promise<string> {
    return new TextDecoder().decode(await this.read(path, options));
  }

  /** The content of a file of any size. What is wrong with the file is thrown here, not by the stream. */
  async readStream(path: string, { signal }: CallOptions = {}): Promise<Readable> {
    return this.#stream({ script: READ, args: [checkPath(path)], path, signal });
  }

  /**
   * Writes a file, making the directories above it. Whoever reads meanwhile sees the old content or the new; when it
   * fails, the old stays. `mode` are permission bits; by default those of the old file, or 0644. Throws
   * `is_a_directory`, `permission_denied`, `out_of_disk`, or what `data` failed with.
   */
  async write(path: string, data: Stdin, options: CallOptions & { mode?: number | undefined } = {}): Promise<void> {
    const mode = options.mode === undefined ? '' : parseInput(fields.mode, options.mode, 'mode').toString(8);
    const nonce = newNonce();
    keepFailure(data);
    const args = [checkPath(path), mode, nonce];
    try {
      await this.#run({ script: WRITE, args, path, signal: options.signal, stdin: withTrailer(data, nonce) });
    } finally {
      abandon(data);
    }
  }

  /** What is in a directory, `depth` levels down (1 by default). Links below it are not followed. */
  async list(path: string, options: CallOptions & { depth?: number | undefined } = {}): Promise<FileInfo[]> {
    const depth = parseInput(z.int().min(1).max(64), options.depth ?? 1, 'depth');
    const args = [checkPath(path), String(depth), FIND_FORMAT];
    return parseFound(path, await this.#run({ script: LIST, args, path, signal: options.signal }));
  }

  /** What is known of a file, of a link itself where it is one. Throws `file_not_found`. */
  async stat(path: string, { signal }: CallOptions = {}): Promise<FileInfo> {
    const script = 'exec find "$1" -maxdepth 0 -printf "$2"';
    const [found] = parseFound(path, await this.#run({ script, args: [checkPath(path), FIND_FORMAT], path, signal }));
    if (found === undefined) throw new SandyardError('file_not_found', `There is no ${quote(path)} in the sandbox.`);
    return found;
  }

  /** Removes a file or an empty directory, or with `recursive` a directory with all that is in it. */
  async remove(path: string, options: CallOptions & { recursive?: boolean | undefined } = {}): Promise<void> {
    const args = [checkPath(path).replace(/(?<=.)\/+$/, ''), options.recursive === true ? 'yes' : 'no'];
    await this.#run({ script: REMOVE, args, path, signal: options.signal });
  }

  /**
   * A tar of what the path names: of a directory its content, named from "./" on; of anything else, itself. What
   * comes out of a sandbox is hostile: unpack it with `copyFrom`, not with a tool that trusts it.
   */
  async readArchive(path: string, { signal }: CallOptions = {}): Promise<Readable> {
    return this.#stream({ script: READ_ARCHIVE, args: [checkPath(path)], path, signal });
  }

  /** Unpacks an uncompressed tar into a directory, which is made where there is none. */
  async writeArchive(path: string, tar: AsyncIterable<Uint8Array>, { signal }: CallOptions = {}): Promise<void> {
    await this.#run({ script: WRITE_ARCHIVE, args: [checkPath(path)], path, signal, stdin: tar });
  }

  #spawn({ script, args, signal, stdin }: FileCommand): Promise<SandboxProcess> {
    return spawn(this.#target, ['/bin/sh', '-c', script, 'sh', ...args], {
      cwd: '/',
      env: OWN_ENVIRONMENT,
      timeoutMs: TRANSFER_TIMEOUT_MS,
      signal,
      stdin,
    });
  }

  /** Runs to the end and returns what was printed. */
  async #run(command: FileCommand): Promise<Buffer> {
    const process = await this.#spawn(command);
    const stderr = new ErrorText();
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const { stream, data } of process.output()) {
      if (stream === 'stderr') stderr.add(data);
      else {
        bytes += data.length;
        if (bytes <= LIST_MAX_BYTES) chunks.push(Buffer.from(data));
      }
    }
    await checkExit(process, { path: command.path, stderr });
    if (bytes > LIST_MAX_BYTES) {
      throw new SandyardError('limit_exceeded', `${quote(command.path)} has too many files to list at once.`, {
        hint: 'List with a smaller depth, or a directory further down.',
      });
    }
    return Buffer.concat(chunks);
  }

  /** Streams what is printed. Returns at the first byte, so that a failure before it is thrown here. */
  async #stream(command: FileCommand): Promise<Readable> {
    const process = await this.#spawn(command);
    const stderr = new ErrorText();
    const chunks = readStdout(process, { path: command.path, stderr });
    const first = await chunks.next();
    async function* all() {
      if (first.done === true) return;
      yield first.value;
      yield* chunks;
    }
    const stream = Readable.from(all(), { objectMode: false });
    // One that is destroyed before it is read never comes to the end of the loop above.
    stream.once('close', () => void process[Symbol.asyncDispose]());
    return stream;
  }
}

interface FileCommand extends CallOptions {
  readonly script: string;
  readonly args: readonly string[];
  readonly path: string;
  readonly stdin?: Stdin;
}

async function* readStdout(process: SandboxProcess, about: { path: string; stderr: ErrorText }) {
  for await (const { stream, data } of process.output()) {
    if (stream === 'stderr') about.stderr.add(data);
    else yield data;
  }
  await checkExit(process, about);
}

async function* withTrailer(data: Stdin, trailer: string): AsyncGenerator<Uint8Array | string> {
  if (typeof data === 'string' || data instanceof Uint8Array) yield data;
  else yield* data;
  yield trailer;
}

/** What the commands print when they fail, in the C locale, and what it means. */
const FAILURES: readonly [text: RegExp, code: ErrorCode, meaning: string, hint: string][] = [
  [/: No such file or directory$/m, 'file_not_found', 'does not exist', 'List the directory to see what is there.'],
  [/: Is a directory$/m, 'is_a_directory', 'is a directory', 'Name a file in it, or use the archive calls.'],
  [/Directory not empty$/m, 'is_a_directory', 'is a directory that is not empty', 'Remove it with recursive.'],
  [/: Not a directory$/m, 'not_a_directory', 'is not a directory', 'Name a directory.'],
  [/: Not a regular file$/m, 'not_a_file', 'is not a regular file', 'Only regular files can be read.'],
  [
    /Too many levels of symbolic links|File name too long|Invalid argument|refusing to remove/,
    'validation_failed',
    'can not be used as a path here',
    'Use another path: this one is too long, a loop of links, or ends in ".".',
  ],
  [/: File exists$/m, 'file_exists', 'exists', 'Remove it first, or choose another name.'],
  [
    /: (Permission denied|Operation not permitted|Read-only file system|Device or resource busy)$/m,
    'permission_denied',
    "is not open to the sandbox's user",
    'Use a path below /workspace, /tmp or the home directory, or change its mode.',
  ],
  [/No space left on device|Disk quota exceeded/, 'out_of_disk', 'has no room left', 'Remove files in the sandbox.'],
  [/does not look like a tar|Archive is compressed/, 'invalid_request', 'got no tar', 'Send an uncompressed tar.'],
];

/** tar's exit status 1: a file changed while it was read, and what was read of it is in the archive. */
const TAR_CHANGED = /^(tar: .*(file changed as we read it|File removed before we read it|socket ignored)\n?)+$/;

async function checkExit(process: SandboxProcess, about: { path: string; stderr: ErrorText }): Promise<void> {
  const exit = await process.wait();
  if (exit.outcome === 'exited' && exit.exitCode === 0) return;
  const text = about.stderr.text();
  if (exit.outcome === 'exited' && exit.exitCode === 1 && TAR_CHANGED.test(text)) return;
  if (exit.outcome === 'sandbox_died') {
    throw new SandyardError('sandbox_died', `The sandbox ended during an operation on ${quote(about.path)}.`);
  }
  for (const [pattern, code, meaning, hint] of FAILURES) {
    if (pattern.test(text)) throw new SandyardError(code, `${quote(about.path)} ${meaning}.`, { hint, cause: text });
  }
  const said = text.trim().split('\n').at(-1) ?? '';
  throw new SandyardError(
    'file_operation_failed',
    `The operation on ${quote(about.path)} failed (${exit.outcome}, ${exit.exitCode ?? 'no exit code'}): ${said.slice(0, 300)}`,
    { hint: 'The sandbox must have a POSIX shell, coreutils, findutils and tar.' },
  );
}

function parseFound(root: string, output: Buffer): FileInfo[] {
  const values = output.toString('utf8').split('\0');
  const base = root.length > 1 ? root.replace(/\/+$/, '') : '';
  const found: FileInfo[] = [];
  for (let at = 0; at + FIND_FIELDS < values.length + 1 && values.length > 1; at += FIND_FIELDS) {
    const [kind, size, mode, modified, uid, gid, link, relative] = values.slice(at, at + FIND_FIELDS);
    if (kind === undefined || relative === undefined) break;
    const path = relative === '' ? root : `${base}/${relative}`;
    found.push({
      path,
      name: path.slice(path.lastIndexOf('/') + 1),
      type: kind === 'f' ? 'file' : kind === 'd' ? 'directory' : kind === 'l' ? 'symlink' : 'other',
      sizeBytes: Number(size),
      mode: Number.parseInt(mode ?? '0', 8),
      modifiedAt: toDate(Number(modified)),
      uid: Number(uid),
      gid: Number(gid),
      linkTarget: kind === 'l' ? (link ?? null) : null,
    });
  }
  return found;
}

/** A time that a Date can't hold, which a file may well have, becomes the nearest that it can (ECMA-262, 21.4.1.1). */
function toDate(seconds: number): Date {
  const ms = Number.isNaN(seconds) ? 0 : seconds * 1000;
  return new Date(Math.max(-MAX_DATE_MS, Math.min(MAX_DATE_MS, ms)));
}

class ErrorText {
  #text = '';

  add(data: Uint8Array): void {
    if (this.#text.length < STDERR_KEPT_BYTES) this.#text += Buffer.from(data).toString('utf8');
  }

  text(): string {
    return this.#text.slice(0, STDERR_KEPT_BYTES);
  }
}

function checkPath(path: string): string {
  return parseInput(fields.path, path, 'path');
}

/** A name as it may be shown: one line, bounded. */
function quote(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
}

import { X509Certificate } from 'node:crypto';
import { existsSync, promises, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { bootstrapBase, buildImage, connect, hasImage, pullImage } from '../images.mjs';
import { ROOT, SetupFailure, diskHint, findProgram, hashContents, progress } from './common.mjs';
import { aptInstall, describeHost, hostMirrors } from './host.mjs';

const DOCKERFILE = 'Dockerfile.sandbox';
const DEFAULT_BASE = 'ubuntu:24.04';
const NEEDED_BYTES = 3 * 1024 ** 3;

/** Makes sure that the engine has the image that sandboxes run, and gives its name. */
export async function ensureSandboxImage(address, { log }) {
  const docker = await connect(address);
  const chosen = process.env.SANDBOX_IMAGE;
  if (chosen) return ensureChosenImage(docker, { image: chosen, log });

  const image = sandboxImageName();
  if (!(await hasImage(docker, image))) await buildSandboxImage(docker, { image, address, log });
  // For those who name no image: the library's default, and what the compose files take
  await docker.getImage(image).tag({ repo: 'sandyard-sandbox', tag: 'latest' });
  return image;
}

/** The same image with a warden that ends at the first fault of its own that it finds, for tests. */
export async function ensureSanitizedImage(address, { log }) {
  const docker = await connect(address);
  const image = `${sandboxImageName()}-sanitize`;
  const args = { WARDEN_TARGET: 'sanitize' };
  if (!(await hasImage(docker, image))) await buildSandboxImage(docker, { image, address, log, args });
  return image;
}

async function buildSandboxImage(docker, { image, address, log, args = {} }) {
  await checkDiskSpace(docker, address);
  const base = await ensureBase(docker, { log });
  log(`Building ${image} on ${base}, which takes a minute or two …`);
  const show = progress(log, { important: (line) => line.startsWith('Step ') });
  try {
    await buildImage(docker, {
      context: ROOT,
      include: sources(),
      dockerfile: DOCKERFILE,
      tag: image,
      buildArgs: { BASE_IMAGE: base, ...networkBuildArgs(), ...args },
      onProgress: show,
    });
  } catch (error) {
    throw buildFailure(error, { image, output: show.tail() });
  }
}

/** What the image is built from: of the warden only what Dockerfile.sandbox takes. */
function sources() {
  const program = readdirSync(join(ROOT, 'warden/src'), { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.[ch]$/.test(name),
  );
  return [DOCKERFILE, 'warden/Makefile', ...program.sort().map((name) => `warden/src/${name}`)];
}

/** The name says what is in the image: other sources or another base give another name. */
function sandboxImageName() {
  return `sandyard-sandbox:${hashContents(sources(), [process.env.BASE_IMAGE ?? '']).slice(0, 12)}`;
}

async function ensureChosenImage(docker, { image, log }) {
  if (await hasImage(docker, image)) return image;
  log(`Pulling SANDBOX_IMAGE=${image} …`);
  try {
    await pullImage(docker, { name: image, onProgress: progress(log) });
    return image;
  } catch (error) {
    throw new SetupFailure(
      `The engine does not have SANDBOX_IMAGE=${image}, and it can't be pulled: ${error.message}`,
      diskHint(error.message) ??
        'Build or load that image first, or unset SANDBOX_IMAGE to have the default one built.',
      { cause: error },
    );
  }
}

/** The image to build on: BASE_IMAGE or the default, or, where no registry can be reached, one made from packages. */
async function ensureBase(docker, { log }) {
  const base = process.env.BASE_IMAGE || DEFAULT_BASE;
  if (await hasImage(docker, base)) return base;
  const host = describeHost();
  const substitute = `sandyard-base:${host.suite}`;
  if (!process.env.BASE_IMAGE && host.suite && (await hasImage(docker, substitute))) return substitute;
  log(`Pulling ${base} …`);
  try {
    await pullImage(docker, { name: base, onProgress: progress(log) });
    return base;
  } catch (error) {
    const full = diskHint(error.message);
    if (full) throw new SetupFailure(`${base} could not be pulled: ${error.message}`, full, { cause: error });
    if (process.env.BASE_IMAGE) throw baseFailure(base, error, 'Correct BASE_IMAGE, or unset it.');
    log(`  ${error.message}`);
    await makeBase(docker, { host, tag: substitute, base, pullError: error, log });
    return substitute;
  }
}

async function makeBase(docker, { host, tag, base, pullError, log }) {
  const mirror = host.suite ? hostMirrors(host.suite, host) : [];
  if (!host.isRoot || !host.hasApt || mirror.length === 0) {
    throw baseFailure(
      base,
      pullError,
      `Give the engine access to a registry, or load the image by hand (\`docker load\`), or set BASE_IMAGE to an Ubuntu or
Debian image that it has. As root on Debian or Ubuntu, one can be made from the package mirror instead.`,
    );
  }
  log(`${base} can't be pulled: making ${tag} from the package mirror of this machine (mmdebstrap) …`);
  if (!findProgram('mmdebstrap')) await aptInstall(['mmdebstrap'], { log });
  try {
    await bootstrapBase(docker, { suite: host.suite, mirror, tag, onProgress: progress(log) });
  } catch (error) {
    throw baseFailure(base, error, diskHint(error.message) ?? 'Check that `apt-get update` works here.');
  }
}

function baseFailure(base, error, hint) {
  return new SetupFailure(`The base image ${base} can't be had: ${error.message}`, hint, { cause: error });
}

function buildFailure(error, { image, output }) {
  // The engine repeats the whole command and tells only its exit code; why is in what the command printed
  const reason = /returned a non-zero code: (\d+)/.exec(error.message);
  const message = reason ? `a command of ${DOCKERFILE} failed with ${reason[1]}` : error.message;
  const text = `${output}\n${error.message}`;
  return new SetupFailure(`${image} could not be built: ${message}.\n${output}`, diskHint(text) ?? buildHint(text), {
    cause: error,
  });
}

function buildHint(text) {
  if (/SELF_SIGNED_CERT|self.signed certificate|UNABLE_TO_GET_ISSUER/i.test(text)) {
    return 'A proxy opens TLS here: set NODE_EXTRA_CA_CERTS to the file with its certificate, and run this again.';
  }
  if (/ENOTFOUND|EAI_AGAIN|Could not resolve|Temporary failure resolving|ECONNREFUSED|ETIMEDOUT/i.test(text)) {
    return "Builds on this engine can't reach the network. Check its DNS (`dns` in /etc/docker/daemon.json) and proxy settings.";
  }
  return `Why is in the lines above. To see it by itself: docker build -f ${DOCKERFILE} .`;
}

/** Only an engine on this machine has its disk here; Docker Desktop and the like keep it in a machine of their own. */
async function checkDiskSpace(docker, address) {
  if (address.kind !== 'unix') return;
  const { DockerRootDir: folder } = await docker.info();
  if (!folder || !existsSync(folder)) return;
  const { bavail, bsize } = await promises.statfs(folder);
  const free = bavail * bsize;
  if (free >= NEEDED_BYTES) return;
  throw new SetupFailure(
    `The sandbox image needs about 3 GB while it is built, and ${folder} has ${(free / 1024 ** 3).toFixed(1)} GB left.`,
    diskHint('no space left on device'),
  );
}

/** The build arguments that tell a Dockerfile of ours this machine's way to the network. */
export function networkBuildArgs() {
  const proxies = ['HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY', 'http_proxy', 'https_proxy', 'no_proxy']
    .map((name) => [name, process.env[name]])
    // A proxy on this machine's loopback is not there for a container
    .filter(([, value]) => value && !/\/\/(localhost|127\.|\[::1\])/.test(value));
  const extra = extraCertificates();
  const registry = process.env.npm_config_registry;
  return {
    ...Object.fromEntries(proxies),
    ...(extra === '' ? {} : { EXTRA_CA_CERTS: Buffer.from(extra).toString('base64') }),
    ...(registry ? { PACKAGE_REGISTRY: registry } : {}),
  };
}

/** The certificates that this machine trusts beyond those that every Node.js trusts, as PEM. */
function extraCertificates() {
  const files = [process.env.NODE_EXTRA_CA_CERTS, process.env.SSL_CERT_FILE, process.env.npm_config_cafile];
  const blocks = [...new Set(files)]
    .filter((file) => file && existsSync(file))
    .flatMap(
      (file) => readFileSync(file, 'utf8').match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [],
    );
  const known = new Set(rootCertificates.map(fingerprint));
  return [...new Map(blocks.map((pem) => [fingerprint(pem), pem]))]
    .filter(([print]) => !known.has(print))
    .map(([, pem]) => pem)
    .join('\n');
}

function fingerprint(pem) {
  return new X509Certificate(pem).fingerprint256;
}

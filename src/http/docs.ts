import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Router, type RequestHandler } from 'express';
import { contentSecurityPolicy } from 'helmet';

/*
 * The interactive documentation, served from our own files only. The document and the page hold no secrets, so they
 * need no token; requests that the page sends do.
 */

const ASSETS = ['swagger-ui-bundle.js', 'swagger-ui.css'] as const;

const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Sandyard</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="/docs/swagger-ui.css">
  </head>
  <body>
    <div id="docs"><noscript>The same as JSON: <a href="/openapi.json">/openapi.json</a></noscript></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/init.js"></script>
  </body>
</html>
`;

/** A file of its own, so that the policy needs no inline scripts. */
const INIT = `SwaggerUIBundle({ url: '/openapi.json', dom_id: '#docs', deepLinking: true, displayRequestDuration: true });
`;

const pagePolicy = contentSecurityPolicy({
  useDefaults: false,
  directives: {
    defaultSrc: ["'none'"],
    connectSrc: ["'self'"],
    scriptSrc: ["'self'"],
    // Swagger UI sets style attributes.
    styleSrc: ["'self'", "'unsafe-inline'"],
    imgSrc: ["'self'", 'data:'],
    fontSrc: ["'self'", 'data:'],
    baseUri: ["'none'"],
    formAction: ["'none'"],
    frameAncestors: ["'none'"],
  },
});

/** The document is made when it is first asked for: that takes a tenth of the time that the service takes to start. */
export function docsRouter(openApi: () => object): Router {
  const router = Router({ caseSensitive: true });
  const folder = assetFolder();
  let text: string | undefined;
  router.get('/openapi.json', (_request, response) => {
    text ??= JSON.stringify(openApi(), undefined, 2);
    response.type('json').send(text);
  });
  router.get('/docs', pagePolicy, send('html', PAGE));
  router.get('/docs/init.js', send('js', INIT));
  for (const asset of ASSETS) {
    router.get(`/docs/${asset}`, (_request, response, next) => {
      if (folder === undefined) next();
      else response.sendFile(asset, { root: folder, maxAge: '1h' });
    });
  }
  return router;
}

function send(type: string, content: string): RequestHandler {
  return (_request, response) => void response.type(type).send(content);
}

/** The build copies the files beside this one; when it runs from the sources they are in the package. */
function assetFolder(): string | undefined {
  const built = fileURLToPath(new URL('docs/', import.meta.url));
  if (existsSync(join(built, ASSETS[0]))) return built;
  try {
    return dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
  } catch {
    return undefined;
  }
}

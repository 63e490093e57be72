// An OpenID provider on loopback that signs ID tokens by one algorithm, and a browser that signs people in.
// `node provider.mjs RS256|ES256|EdDSA`: first prints {issuer, jwks}, then answers each line {login, nonce} on
// standard input with {id_token}.
import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

// Standard output is for answers only.
console.info = console.error;
const alg = process.argv[2];
const kinds = {
  RS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};
const key = generateKeyPairSync(...kinds[alg]).privateKey.export({ format: 'jwk' });
const kid = randomBytes(8).toString('hex');
// The provider insists on a key for RS256, whatever its clients want.
const other = generateKeyPairSync(...kinds.RS256).privateKey.export({ format: 'jwk' });
const keys = [{ ...key, kid, alg, use: 'sig' }];
if (alg !== 'RS256') keys.push({ ...other, kid: `${kid}-other`, alg: 'RS256', use: 'sig' });

const server = createServer();
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const issuer = `http://127.0.0.1:${server.address().port}`;
const redirect = 'http://127.0.0.1/signed-in';
const provider = new Provider(issuer, {
  jwks: { keys },
  clients: ['azote', 'another'].map((client_id) => ({
    client_id,
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    redirect_uris: [redirect],
    id_token_signed_response_alg: alg,
  })),
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['preferred_username'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.org`, email_verified: true, preferred_username: id }),
  }),
  cookies: { keys: [randomBytes(16).toString('hex')] },
});
server.on('request', provider.callback());
const jwks = await (await fetch(`${issuer}/jwks`)).json();
console.log(JSON.stringify({ issuer, jwks }));

// What a browser does: cookies, redirections, the two forms (sign in, consent), until it lands at the client.
async function signIn({ login, nonce, client = 'azote' }) {
  const verifier = randomBytes(32).toString('base64url');
  const challenge = createHash('sha256').update(verifier).digest('base64url');
  const query = new URLSearchParams({
    client_id: client, response_type: 'code', redirect_uri: redirect, scope: 'openid email profile', nonce,
    code_challenge: challenge, code_challenge_method: 'S256',
  });
  const cookies = new Map();
  const go = async (url, body) => {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const answer = await fetch(url, { method: body ? 'POST' : 'GET', body, headers: { cookie }, redirect: 'manual' });
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(';')[0].split('=');
      if (value) cookies.set(name, value); else cookies.delete(name);
    }
    return answer;
  };
  let url = `${issuer}/auth?${query}`;
  for (let step = 0; step < 20; step += 1) {
    let answer = await go(url);
    if (answer.status === 200) {
      const form = (await answer.text()).includes('name="password"')
        ? new URLSearchParams({ prompt: 'login', login, password: 'x' })
        : new URLSearchParams({ prompt: 'consent' });
      answer = await go(url, form);
    }
    const next = answer.headers.get('location');
    if (!next) throw new Error(`${answer.status} at ${url}: ${await answer.text()}`);
    url = new URL(next, issuer).href;
    if (url.startsWith(redirect)) break;
  }
  const code = new URL(url).searchParams.get('code');
  const answer = await fetch(`${issuer}/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'authorization_code', code, redirect_uri: redirect, client_id: client, code_verifier: verifier,
    }),
  });
  const { id_token } = await answer.json();
  return { id_token };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await signIn(JSON.parse(line))));
}
process.exit(0);

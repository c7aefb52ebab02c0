// The command line: options, their variables, exit statuses, and what --check and --wait say.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { type Invocation, readInvocation, SettingsError } from '../../src/forwarder/config.js'
import { runForward, scratch, startForwarder } from '../helpers/forwarder.js'
import { refusal, startStub } from '../helpers/stub-service.js'

const [workspaceId, ownerId] = [randomUUID(), randomUUID()]
const VALID = [
  '--url',
  'http://a',
  '--socket',
  '/tmp/s',
  '--workspace-id',
  workspaceId,
  '--owner-id',
  ownerId,
]

function settings(args: string[], env: Record<string, string> = {}) {
  const invocation: Invocation = readInvocation(args, env)
  if (invocation.command !== 'run') throw new Error(`it is ${invocation.command}`)
  return invocation.settings
}

const jwt = (claims: object) =>
  ['{"alg":"HS256"}', JSON.stringify(claims), 'x']
    .map((part) => Buffer.from(part).toString('base64url'))
    .join('.')

t.test('defaults, options and variables', async (t) => {
  t.strictSame(settings(VALID), {
    urls: [new URL('http://a')],
    socket: '/tmp/s',
    socketMode: 0o666,
    token: undefined,
    tokenFile: undefined,
    ids: { workspaceId, ownerId },
    spool: undefined,
    spoolLimit: 67_108_864,
    tee: undefined,
    logLevel: 'info',
  })
  const token = 'a-token-of-24-characters'
  const env = {
    BOUNDARY_USAGE_URL: 'http://a:1, https://b/prefix/',
    BOUNDARY_USAGE_SOCKET: '/tmp/s',
    BOUNDARY_USAGE_SOCKET_MODE: '0600',
    BOUNDARY_USAGE_TOKEN: token,
    BOUNDARY_USAGE_WORKSPACE_ID: workspaceId.toUpperCase(),
    BOUNDARY_USAGE_OWNER_ID: ownerId,
    BOUNDARY_USAGE_SPOOL: '/tmp/spool',
    BOUNDARY_USAGE_SPOOL_LIMIT: '1000000',
    BOUNDARY_USAGE_TEE: '/tmp/tee',
    BOUNDARY_USAGE_LOG_LEVEL: 'warn',
  }
  const expected = {
    urls: [new URL('http://a:1'), new URL('https://b/prefix/')],
    socket: '/tmp/s',
    socketMode: 0o600,
    token,
    tokenFile: undefined,
    ids: { workspaceId, ownerId },
    spool: '/tmp/spool',
    spoolLimit: 1_000_000,
    tee: '/tmp/tee',
    logLevel: 'warn',
  }
  t.strictSame(settings([], env), expected)
  t.strictSame(settings(['--url', 'http://c', '--url', 'http://d', '--log-level', 'debug'], env), {
    ...expected,
    urls: [new URL('http://c'), new URL('http://d')],
    logLevel: 'debug',
  })
  const ids = { workspace_id: workspaceId, owner_id: ownerId }
  t.equal(settings(VALID.slice(0, 4), { BOUNDARY_USAGE_TOKEN: jwt(ids) }).ids, undefined, "the JWT's")
  t.equal(settings(VALID, { BOUNDARY_USAGE_TOKEN: jwt(ids) }).ids, undefined)
})

t.test('every invalid setting has a line of its own', async (t) => {
  const directory = await scratch(t)
  await writeFile(join(directory, 'empty'), '')
  await mkdir(join(directory, 'real'))
  await symlink(join(directory, 'real'), join(directory, 'link'))
  const cases: [string[], Record<string, string>, RegExp][] = [
    [['--bogus'], {}, /^Unknown option '--bogus'/],
    [['word'], {}, /^Unexpected argument 'word'/],
    [['--url'], {}, /--url/],
    [VALID.slice(2), {}, /^--url: not set/],
    [[...VALID.slice(2), '--url', 'ftp://a'], {}, /^--url: invalid value "ftp:\/\/a"/],
    [[...VALID.slice(2), '--url', 'http://u:secret@a'], {}, /^--url: invalid value "http:\/\/\*\*\*@a"/],
    [[...VALID.slice(2), '--url', 'http://a/?x'], {}, /^--url: invalid value/],
    [['--url', 'http://a', ...VALID.slice(4)], {}, /^--socket: not set/],
    [[...VALID, '--socket', `/tmp/${'x'.repeat(103)}`], {}, /^--socket: invalid value .* at most 107 bytes/],
    [[...VALID, '--tee', `/tmp/${'x'.repeat(103)}`], {}, /^--tee: invalid value/],
    [[...VALID, '--tee', '/tmp/../tmp/s'], {}, /^--tee: invalid value .* other than --socket/],
    [
      [...VALID, '--socket', join(directory, 'real/s'), '--tee', join(directory, 'link/s')],
      {},
      /^--tee: invalid value .* other than --socket/,
    ],
    [[...VALID, '--socket-mode', '888'], {}, /^--socket-mode: invalid value "888", takes three octal digits/],
    [[...VALID, '--spool', ''], {}, /^--spool: invalid value ""/],
    [[...VALID, '--spool-limit', '64MiB'], {}, /^--spool-limit: invalid value "64MiB"/],
    [[...VALID, '--spool-limit', '65535'], {}, /^--spool-limit: invalid value "65535"/],
    [[...VALID, '--log-level', 'loud'], {}, /^--log-level: invalid value "loud"/],
    [[...VALID, '--token-file', join(directory, 'empty')], {}, /^--token-file: invalid value/],
    [[...VALID, '--token-file', join(directory, 'none')], {}, /^--token-file: invalid value/],
    [VALID, { BOUNDARY_USAGE_TOKEN: 'two words' }, /^BOUNDARY_USAGE_TOKEN: invalid value/],
    [VALID.slice(0, 6), {}, /^--owner-id: not set/],
    [[...VALID, '--owner-id', '17'], {}, /^--owner-id: invalid value "17", takes a UUID/],
    [
      VALID,
      { BOUNDARY_USAGE_TOKEN: jwt({ workspace_id: randomUUID(), owner_id: ownerId }) },
      /^--workspace-id: invalid value .*, as the JWT says/,
    ],
  ]
  for (const [args, env, message] of cases)
    t.throws(() => readInvocation(args, env), { name: 'SettingsError', message }, args.join(' '))
  t.throws(
    () => readInvocation([], {}),
    new SettingsError(
      [
        '--socket: not set, takes a path',
        '--url: not set, takes http:// or https:// and a host',
        '--workspace-id: not set, needed unless the token is a JWT that contains it',
        '--owner-id: not set, needed unless the token is a JWT that contains it',
      ].join('\n'),
    ),
  )
})

t.test('--help and --version exit with 0, invalid settings with 2', async (t) => {
  t.match(await runForward(t, ['--help']), { code: 0, stdout: /^Usage: boundary-usage forward/, stderr: '' })
  t.match(await runForward(t, ['--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/, stderr: '' })
  t.strictSame(await runForward(t, ['--socket', '/tmp/s', ...VALID.slice(4)]), {
    code: 2,
    stdout: '',
    stderr: 'boundary-usage forward: --url: not set, takes http:// or https:// and a host\n',
  })
})

t.test('--check tests every part, and exits with 1 if one fails', async (t) => {
  const stub = await startStub(t)
  const directory = await scratch(t)
  const tee = createServer().listen(join(directory, 'agent.sock'))
  await once(tee, 'listening')
  t.teardown(() => tee.close())
  const args = [
    '--check',
    ...[
      '--url',
      stub.url,
      '--socket',
      join(directory, 's'),
      '--workspace-id',
      workspaceId,
      '--owner-id',
      ownerId,
    ],
  ]
  const extra = ['--spool', join(directory, 'spool'), '--tee', join(directory, 'agent.sock')]
  t.strictSame(await runForward(t, [...args, ...extra]), {
    code: 0,
    stderr: '',
    stdout: [
      `ok      token: none, for workspace ${workspaceId} and owner ${ownerId}`,
      `ok      service ${stub.url}/: it accepts an empty batch`,
      `ok      socket ${directory}/s: its directory can be written`,
      `ok      spool ${directory}/spool: it can be written`,
      `ok      tee ${directory}/agent.sock: somebody accepts connections`,
      '',
    ].join('\n'),
  })
  t.strictSame(
    stub.batches.map(({ numbers }) => numbers),
    [[]],
    'an empty batch',
  )

  await writeFile(join(directory, 'file'), '')
  stub.answer = () => refusal(401, 'UNAUTHORIZED')
  const failing = await runForward(t, [
    ...args,
    ...['--url', 'http://127.0.0.1:1', '--spool', join(directory, 'file'), '--tee', join(directory, 'none')],
  ])
  t.equal(failing.code, 1)
  t.strictSame(
    failing.stdout.split('\n').map((line) => line.slice(0, 16)),
    [
      'ok      token: n',
      'failed  service ',
      'failed  service ',
      'ok      socket /',
      'failed  spool /t',
      'failed  tee /tmp',
      '',
    ],
  )
  t.match(failing.stdout, /401 UNAUTHORIZED/)
  t.match(failing.stdout, /ECONNREFUSED/)
})

t.test('--wait exits with 0 once a forwarder accepts; a file without one is not enough', async (t) => {
  const stub = await startStub(t)
  const socket = join(await scratch(t), 'boundary.sock')
  const killed = await startForwarder(t, { urls: [stub.url], socket })
  await killed.kill()
  let isOver = false
  const waiting = runForward(t, ['--wait', '--socket', socket]).then((done) => {
    isOver = true
    return done
  })
  await runForward(t, ['--version']) // takes as long as --wait needs to start
  t.notOk(isOver)
  await startForwarder(t, { urls: [stub.url], socket })
  t.strictSame(await waiting, { code: 0, stdout: '', stderr: '' })
})
